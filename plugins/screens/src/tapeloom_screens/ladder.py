"""`Ladder`: the levels of an order book from its snapshots and deltas, to be looked at, not traded on.

It follows no sequence numbers: a `Gap` of the stream says when updates are missing, and then it is stale
until the next snapshot. tapeloom-books keeps books by the venue's rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from heapq import nlargest, nsmallest
from math import isfinite
from typing import Literal, TypeAlias

from tapeloom.events import Book

from .views import LadderView, Level

#: A level as the venue wrote it: price and size. The key is the price as a float, so that 0.1 and 0.10
#: are one level; two prices of up to 15 digits never share a float.
_Side: TypeAlias = dict[float, Sequence[str] | Sequence[Decimal]]


def _apply(side: _Side, levels: Sequence[Sequence[str] | Sequence[Decimal]]) -> None:
    for level in levels:
        price = float(level[0])
        if not isfinite(price):
            raise ValueError(f"the price {level[0]} is not finite")
        if float(level[1]) > 0:
            side[price] = level
        else:
            side.pop(price, None)


class Ladder:
    """One order book of one channel."""

    __slots__ = ("_asks", "_best", "_bids", "_levels", "_snapshot_recv", "channel", "recv", "state")

    def __init__(self, channel: str, levels: int) -> None:
        self.channel = channel
        self.state: Literal["waiting", "synced", "stale"] = "waiting"
        self.recv = 0
        self._levels = levels
        self._snapshot_recv = 0
        self._bids: _Side = {}
        self._asks: _Side = {}
        self._best: tuple[Level | None, Level | None] | None = None

    def add(self, events: Sequence[Book]) -> None:
        """Apply updates in order; those before the last snapshot of them are skipped."""
        newest = next((n for n, event in _reversed(events) if event.kind == "snapshot"), None)
        for event in events if newest is None else events[newest:]:
            self._add(event)
        self._best = None

    def _add(self, event: Book) -> None:
        if event.kind == "snapshot":
            self._bids.clear()
            self._asks.clear()
            self.state, self._snapshot_recv = "synced", event.recv
        elif self.state == "waiting":
            return
        self.recv = event.recv
        try:
            _apply(self._bids, event.raw_bids)
            _apply(self._asks, event.raw_asks)
        except (
            ValueError,
            TypeError,
            IndexError,
        ):  # a level that is no number: some of the event may be missing
            self.state = "stale"
        if len(self._bids) > 2 * self._levels:
            self._bids = {price: self._bids[price] for price in nlargest(self._levels, self._bids)}
        if len(self._asks) > 2 * self._levels:
            self._asks = {price: self._asks[price] for price in nsmallest(self._levels, self._asks)}

    def lost(self, recv: int) -> None:
        """Become stale, since updates were lost before *recv*, unless a snapshot has arrived since."""
        if self.state == "synced" and self._snapshot_recv < recv:
            self.state = "stale"

    def best(self) -> tuple[Level | None, Level | None]:
        """Return the best bid and the best ask, None for a side without a level."""
        if self._best is None:
            bid = _level(self._bids[max(self._bids)]) if self._bids else None
            ask = _level(self._asks[min(self._asks)]) if self._asks else None
            self._best = bid, ask
        return self._best

    def view(self, levels: int) -> LadderView:
        """Return the best *levels* of each side."""
        bids = tuple(_level(self._bids[price]) for price in nlargest(levels, self._bids))
        asks = tuple(_level(self._asks[price]) for price in nsmallest(levels, self._asks))
        return LadderView(self.channel, self.state, bids, asks, self.recv)


def _reversed(events: Sequence[Book]) -> list[tuple[int, Book]]:
    return list(enumerate(events))[::-1]


def _level(raw: Sequence[str] | Sequence[Decimal]) -> Level:
    return Decimal(raw[0]), Decimal(raw[1])
