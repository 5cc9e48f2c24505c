"""A book put together from events by the common rule of sequences, in the plainest way."""

from __future__ import annotations

from decimal import Decimal

from tapeloom.events import Book

from .declared import ContractViolation

__all__ = ["Rebuilt"]


class Rebuilt:
    """The book of one symbol and channel."""

    def __init__(self) -> None:
        self.bids: dict[Decimal, Decimal] = {}
        self.asks: dict[Decimal, Decimal] = {}
        self.whole = False
        self.depth = 0
        self._last: int | None = None
        self._fresh = False  # nothing has come since the snapshot
        self._waiting: list[Book] = []

    def take(self, event: Book) -> None:
        """Take a snapshot or a change of some levels.

        Raises Broken where the sequence has a hole.
        """
        if event.kind == "delta":
            if self.whole:
                self._change(event)
            else:
                self._waiting.append(event)
            return
        if self.whole and event.last_id is not None and event.last_id < (self._last or 0):
            return  # an answer over REST that came late
        self.bids, self.asks = dict(event.bids), dict(event.asks)
        self.whole = self._fresh = True
        self.depth, self._last = event.depth, event.last_id
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            self._change(one)

    def _change(self, event: Book) -> None:
        if event.last_id is not None and self._last is not None:
            if event.last_id <= self._last:
                return
            if not self._joins(event):
                raise ContractViolation(
                    f"the book {event.symbol} {event.channel} stood at {self._last}, and the next"
                    f" update goes from {event.first_id} to {event.last_id} (previous: {event.previous_id})."
                    " `first`, `last` and `previous` must be the venue's."
                )
        for side, levels in ((self.bids, event.bids), (self.asks, event.asks)):
            for price, size in levels:
                if size:
                    side[price] = size
                else:
                    side.pop(price, None)
        self._fresh = False
        self._last = event.last_id if event.last_id is not None else self._last

    def _joins(self, event: Book) -> bool:
        assert self._last is not None
        if self._fresh:
            return event.first_id is None or event.first_id <= self._last + 1
        if event.previous_id is not None:
            return event.previous_id == self._last
        return event.first_id is None or event.first_id == self._last + 1

    def top(self, depth: int) -> tuple[list[tuple[Decimal, Decimal]], ...]:
        """Return the best *depth* levels of bids and asks, best first."""
        bids = sorted(self.bids.items(), reverse=True)[:depth]
        return bids, sorted(self.asks.items())[:depth]
