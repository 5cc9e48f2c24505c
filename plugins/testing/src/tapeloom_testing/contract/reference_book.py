"""A reference order book: applies snapshots and deltas by their sequence numbers."""

from __future__ import annotations

from decimal import Decimal

from tapeloom.events import Book

from .declared import ContractViolation

__all__ = ["Rebuilt"]


class Rebuilt:
    """The book of one symbol and channel.

    `whole` tells whether a snapshot has been applied; `depth` is that of the snapshot.
    """

    def __init__(self) -> None:
        self.bids: dict[Decimal, Decimal] = {}
        self.asks: dict[Decimal, Decimal] = {}
        self.whole = False
        self.depth = 0
        self._last: int | None = None
        self._fresh = False  # no delta has been applied since the snapshot
        self._waiting: list[Book] = []  # deltas that arrived before a snapshot

    def take(self, event: Book) -> None:
        """Apply a snapshot or a delta.

        Raise ContractViolation where the sequence numbers have a gap.
        """
        if event.kind == "delta":
            if self.whole:
                self._change(event)
            else:
                self._waiting.append(event)
            return
        if self.whole and event.last_id is not None and event.last_id < (self._last or 0):
            return  # a REST snapshot that is older than the book
        self.bids, self.asks = dict(event.bids), dict(event.asks)
        self.whole = self._fresh = True
        self.depth, self._last = event.depth, event.last_id
        waiting, self._waiting = self._waiting, []
        for delta in waiting:
            self._change(delta)

    def _change(self, event: Book) -> None:
        """Apply a delta; ignore it where the book is newer."""
        if event.last_id is not None and self._last is not None:
            if event.last_id <= self._last:
                return
            if not self._joins(event):
                raise ContractViolation(
                    f"the book {event.symbol} {event.channel} is at id {self._last}, but the next"
                    f" delta goes from {event.first_id} to {event.last_id} (previous: {event.previous_id})."
                    " `first_id`, `last_id` and `previous_id` must be the venue's own."
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
        """Return whether a delta follows the last applied id without a gap."""
        assert self._last is not None
        if event.previous_id == self._last:
            return True
        if self._fresh:
            return event.first_id is None or event.first_id <= self._last + 1
        if event.previous_id is not None:
            return False
        return event.first_id is None or event.first_id == self._last + 1

    def top(self, depth: int) -> tuple[list[tuple[Decimal, Decimal]], ...]:
        """Return the best *depth* levels of bids and asks, best first."""
        bids = sorted(self.bids.items(), reverse=True)[:depth]
        return bids, sorted(self.asks.items())[:depth]
