"""Tells what changed at the top of a book: a `Quote`, and a `Book` of the best levels."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from tapeloom.events import Book, Event, Quote

if TYPE_CHECKING:
    from .local import LocalBook
    from .settings import Settings

__all__ = ["TopOfBookEmitter"]

Top = tuple[list[tuple[str, str]], list[tuple[str, str]]]


class TopOfBookEmitter:
    """Compares the top of one book with what was last told of it."""

    def __init__(self, book: LocalBook, settings: Settings) -> None:
        speaks = book.channel in settings.channels
        self._book = book
        self._quotes = settings.quotes and speaks
        self._depth = settings.depth if speaks else 0
        self.forget()

    def forget(self) -> None:
        """Tell everything anew next time."""
        self._best: tuple[str, str, str, str] | None = None
        self._values: tuple[Decimal, ...] | None = None
        self._top: Top = [], []

    def __call__(self, ts: int, recv: int, out: list[Event]) -> None:
        """Append what has changed."""
        if self._quotes:
            bids, asks = self._book.bids, self._book.asks
            if bids.keys and asks.keys:
                bid, ask = bids.texts[bids.keys[-1]], asks.texts[asks.keys[-1]]
                best = bid, bids.sizes[bid], ask, asks.sizes[ask]
                if best != self._best:
                    self._best = best
                    self._quote(ts, recv, best, out)
            else:
                self._best = self._values = None
        if self._depth:
            top = self._book.bids.raw_top(self._depth), self._book.asks.raw_top(self._depth)
            if top != self._top:
                self._snapshot(ts, recv, top, out)

    def _quote(self, ts: int, recv: int, best: tuple[str, str, str, str], out: list[Event]) -> None:
        try:
            values = Decimal(best[0]), Decimal(best[1]), Decimal(best[2]), Decimal(best[3])
        except InvalidOperation:
            return  # a size that is no number; the validating stage is the one to say so
        if not (values[1].is_finite() and values[3].is_finite()) or values == self._values:
            return
        self._values = values
        book = self._book
        out.append(
            Quote(
                book.venue, book.symbol, ts, recv, *values, book.sequence, book.channel, "built_from_book"
            )
        )  # fmt: skip

    def _snapshot(self, ts: int, recv: int, top: Top, out: list[Event]) -> None:
        told, self._top = self._top, top
        if _same(told[0], top[0]) and _same(told[1], top[1]):
            return  # the same numbers, spelled in another way
        book = self._book
        out.append(
            Book(
                book.venue, book.symbol, ts, recv, "snapshot", top[0], top[1],
                None, book.sequence, None, self._depth, book.channel, "built_from_book",
            )
        )  # fmt: skip


def _same(old: list[tuple[str, str]], new: list[tuple[str, str]]) -> bool:
    return len(old) == len(new) and all(
        was == now or (_equal(was[0], now[0]) and _equal(was[1], now[1]))
        for was, now in zip(old, new, strict=True)
    )


def _equal(was: str, now: str) -> bool:
    if was == now:
        return True
    try:
        return Decimal(was) == Decimal(now)
    except InvalidOperation:
        return False
