"""The bars of one symbol and one interval: which are open, which have closed, which can be revised.

A lane knows bars, not trades: `_series` gives it sums. Bars close in order of start, and once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._accumulator import BarAccumulator, TradeSum

if TYPE_CHECKING:
    from collections.abc import Iterator
    from decimal import Decimal

    from ._interval import Interval
    from ._settings import Settings

__all__ = ["NEVER", "IntervalBars"]

NEVER = 1 << 63


class IntervalBars:
    """Bars of one symbol and interval.

    `floor` is the start of the earliest interval that has not closed. `newest` is the bar that the
    latest trades fall into; None where that one has closed.
    """

    __slots__ = (
        "_close",
        "_closed",
        "_fill",
        "_fill_limit",
        "_filled",
        "_keep",
        "_opened",
        "_priced",
        "floor",
        "interval",
        "length",
        "newest",
        "offset",
    )

    def __init__(self, interval: Interval, settings: Settings, floor: int) -> None:
        self.interval = interval
        self.length = interval.length
        self.offset = interval.offset
        self.newest: BarAccumulator | None = None
        self._opened: dict[int, BarAccumulator] = {}
        self._closed: dict[int, BarAccumulator] = {}
        self._keep = settings.keep * interval.length if settings.revise else 0
        self._fill = settings.empty == "fill"
        self._fill_limit = settings.fill_limit
        self._filled = 0  # in a row
        self._close: Decimal | None = None  # of the latest bar with trades that has closed
        self._priced = 0  # its start
        self.floor = self.start(floor)

    def start(self, ts: int) -> int:
        """Return the start of the bar that *ts* belongs to."""
        return ts - (ts - self.offset) % self.length

    def open(self, start: int) -> BarAccumulator:
        """Return the open bar that begins at *start*, which is not before `floor`."""
        tally = self._opened.get(start)
        if tally is None:
            tally = self._opened[start] = BarAccumulator(start, start + self.length)
            if self.newest is None or start > self.newest.start:
                self.newest = tally
        return tally

    def opened(self) -> list[BarAccumulator]:
        """Return the open bars in order of start."""
        return [self._opened[start] for start in sorted(self._opened)]

    def kept(self) -> Iterator[BarAccumulator]:
        """Return the closed bars that were sent and can still be revised."""
        bound = self.floor - self._keep
        return (t for t in self._closed.values() if t.complete is not None and t.start >= bound)

    def late(self, start: int) -> BarAccumulator | None:
        """Return the closed bar that begins at *start*; None where it cannot be revised any more."""
        if start < self.floor - self._keep:
            return None
        tally = self._closed.get(start)
        if tally is None:  # its interval closed empty
            tally = self._closed[start] = BarAccumulator(start, start + self.length)
        return tally

    def revise(self, tally: BarAccumulator, more: TradeSum) -> None:
        """Add late trades to a closed bar."""
        tally.merge(more)
        if tally.start >= self._priced:
            self._priced, self._close = tally.start, tally.close

    @property
    def ends(self) -> int:
        """The end of the earliest bar that waits to be closed, or `NEVER`."""
        if self._fill and self._close is not None and self._filled < self._fill_limit:
            return self.floor + self.length
        if not self._opened:
            return NEVER
        if len(self._opened) == 1 and self.newest is not None:
            return self.newest.end
        return min(self._opened) + self.length

    def close(self, until: int, *, by_time: bool = False) -> list[BarAccumulator]:
        """Close every bar that ends at *until* or before; return those to be sent, by start.

        A trade also closes the empty intervals before it. Time closes only what is there: a bar, or
        a fill. So how often time is asked does not show, and the first trade after a silence is
        late only if a bar after it has closed.
        """
        target = self.start(until)
        if target <= self.floor:
            return []
        if self._fill:
            due = self._filling(target)
        else:
            due = [self._opened[start] for start in sorted(self._opened) if start < target]
        for tally in due:
            self._shut(tally)
        if not by_time:
            self.floor = target
        elif due:
            self.floor = due[-1].end
        bound = self.floor - self._keep
        while self._closed and (oldest := next(iter(self._closed))) < bound:
            del self._closed[oldest]
        return [tally for tally in due if tally.trades or self._fill]

    def _filling(self, target: int) -> list[BarAccumulator]:
        """Return what stands between floor and *target*, with a bar for every empty interval."""
        due: list[BarAccumulator] = []
        start, price, filled = self.floor, self._close, self._filled
        while start < target:
            tally = self._opened.get(start)
            if tally is None or not tally.trades:
                if price is None or filled >= self._fill_limit:
                    if tally is not None:
                        self._shut(tally)
                    later = [one for one in self._opened if one > start]
                    start = min(later, default=target)
                    continue
                flawed = tally is not None
                tally = BarAccumulator(start, start + self.length, price)
                tally.flawed = flawed
                filled += 1
            else:
                price, filled = tally.close, 0
            due.append(tally)
            start += self.length
        self._filled = filled
        return due

    def _shut(self, tally: BarAccumulator) -> None:
        self._opened.pop(tally.start, None)
        if self.newest is not None and self.newest.start == tally.start:
            self.newest = None
        if tally.trades:
            self._priced, self._close = tally.start, tally.close
        if self._keep:
            self._closed[tally.start] = tally
