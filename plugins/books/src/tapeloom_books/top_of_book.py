"""`TopOfBookEmitter`: emits a `Quote` and a `Book` of the best levels when the top of a book changes."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from tapeloom.events import Book, Event, Quote

if TYPE_CHECKING:
    from .local import LocalBook
    from .settings import Settings

__all__ = ["TopOfBookEmitter"]

#: Best bids and asks as texts (price, size), best first.
Top = tuple[list[tuple[str, str]], list[tuple[str, str]]]
#: Best bid, its size, best ask and its size as texts; an empty side is twice None.
Best = tuple[str | None, str | None, str | None, str | None]

#: Price and size of an empty side.
_EMPTY = None, None


class TopOfBookEmitter:
    """Compare the top of one book with the top emitted last, and emit changes."""

    def __init__(self, book: LocalBook, settings: Settings) -> None:
        is_enabled = book.channel in settings.channels
        self._book = book
        self._quotes = settings.quotes and is_enabled
        self._depth = settings.depth if is_enabled else 0
        self.reset()

    def reset(self) -> None:
        """Forget the top emitted last, so that the next call emits everything."""
        self._last_best: Best | None = None
        self._last_values: tuple[Decimal | None, ...] | None = None
        self._last_top: Top = [], []

    def __call__(self, ts: int, recv: int, out: list[Event]) -> None:
        """Append a `Quote` and a `Book` to *out* if the top of the book has changed."""
        if self._quotes:
            bids, asks = self._book.bids, self._book.asks
            best: Best
            if bids.keys and asks.keys:
                bid, ask = bids.texts[bids.keys[-1]], asks.texts[asks.keys[-1]]
                best = bid, bids.sizes[bid], ask, asks.sizes[ask]
            else:
                best = *(bids.raw_best or _EMPTY), *(asks.raw_best or _EMPTY)
            if best != self._last_best:
                self._last_best = best
                self._emit_quote(ts, recv, best, out)
        if self._depth:
            top = self._book.bids.raw_top(self._depth), self._book.asks.raw_top(self._depth)
            if top != self._last_top:
                self._emit_snapshot(ts, recv, top, out)

    def _emit_quote(self, ts: int, recv: int, best: Best, out: list[Event]) -> None:
        try:
            bid, bid_size, ask, ask_size = [
                text if text is None else Decimal(text) for text in best
            ]
        except InvalidOperation:
            return  # not a number; reporting this is the task of a validating stage
        if not (
            (bid_size is None or bid_size.is_finite())
            and (ask_size is None or ask_size.is_finite())
        ):
            return
        values = bid, bid_size, ask, ask_size
        if values == self._last_values:
            return
        self._last_values = values
        book = self._book
        out.append(
            Quote(
                book.venue, book.symbol, ts, recv, *values, book.sequence, book.channel, "built_from_book"
            )
        )  # fmt: skip

    def _emit_snapshot(self, ts: int, recv: int, top: Top, out: list[Event]) -> None:
        previous, self._last_top = self._last_top, top
        if _equal_levels(previous[0], top[0]) and _equal_levels(previous[1], top[1]):
            return  # the same numbers, written differently
        book = self._book
        out.append(
            Book(
                book.venue, book.symbol, ts, recv, "snapshot", top[0], top[1],
                None, book.sequence, None, self._depth, book.channel, "built_from_book",
            )
        )  # fmt: skip


def _equal_levels(old: list[tuple[str, str]], new: list[tuple[str, str]]) -> bool:
    return len(old) == len(new) and all(
        before == after or (_equal(before[0], after[0]) and _equal(before[1], after[1]))
        for before, after in zip(old, new, strict=True)
    )


def _equal(old: str, new: str) -> bool:
    if old == new:
        return True
    try:
        return Decimal(old) == Decimal(new)
    except InvalidOperation:
        return False
