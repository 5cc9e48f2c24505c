"""A venue's clock as seen from here, and which of its symbols wants to be woken when.

A bar has to end on time even if no trade follows, on the venue's time, of which all we know is what
trades have told. With `offset` for how far the venue's clock is ahead of ours (it may be negative)
and `delay` for how long a trade was under way, a trade tells `ts - recv = offset - delay`. A delay is
never negative, so that the largest of these, `offset - least delay`, is the nearest to the offset
and never above it. The projection `now + largest` is hence the venue's true time less the least
delay: a trade stamped before it has had the least delay to get here. So

- a constant offset cancels out, in either direction;
- trades that came late can only lower what they tell, and a bar then waits longer, never less:
  no tick closes a bar early because the estimate was made from delayed trades. A trade misses its
  bar only if it took longer than the least delay seen plus the lateness;
- a largest that could only grow would never see our clock being set forward, or the venue's back.
  It is therefore taken over the current and the previous minute of `recv`. Until that has passed,
  bars end early by the step, and the trades they miss revise them.

Minutes are those of `recv` itself, and only trades move them: not batches, not ticks.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

from ._interval_bars import NEVER
from ._series import Series

if TYPE_CHECKING:
    from ._settings import Settings

__all__ = ["Venue"]

_MINUTE = 60_000_000_000
_UNKNOWN = -(1 << 62)


class Venue:
    """The venue of a feed.

    `lead` is the largest `ts - recv` of the current minute, which is from `begins` to `ends`. `seen`
    is the latest `recv`.
    """

    __slots__ = ("_last_lead", "_queue", "begins", "ends", "lead", "seen", "series")

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}
        self.seen = 0
        self.lead = _UNKNOWN
        self._last_lead = _UNKNOWN
        self.begins = self.ends = 0
        self._queue: list[tuple[int, str]] = []

    def hear(self, recv: int) -> int:
        """Take note of a `recv`; return the time above which a trade raises the lead."""
        # Two connections may be read in turn, so `recv` may fall a little: that is no new minute.
        if recv >= self.ends or recv < self.begins - _MINUTE:
            next_one = self.ends <= recv < self.ends + _MINUTE
            self._last_lead = self.lead if next_one else _UNKNOWN
            self.lead = _UNKNOWN
            self.begins = recv - recv % _MINUTE
            self.ends = self.begins + _MINUTE
        self.seen = recv
        return recv + self.lead

    def lift(self, ts: int) -> int:
        """Take note of the latest trade since `hear`; return the time above which one raises the lead."""
        self.lead = ts - self.seen
        return ts

    @property
    def ahead(self) -> int:
        """How far the venue's clock is ahead of ours, less the least delay."""
        return max(self.lead, self._last_lead)

    def add(self, name: str, symbol: str, settings: Settings) -> Series:
        """Begin with a symbol of the venue *name*."""
        series = self.series[symbol] = Series(name, symbol, settings)
        return series

    def queue(self, series: Series) -> None:
        """Have *series* woken at its `wake`.

        An entry may be too early by the time it is looked at, never too late; `first` puts it right.
        So a series is entered again only if it wants to be woken earlier than it was to be.
        """
        wake = series.wake
        if wake != NEVER and (series.queued is None or wake < series.queued):
            series.queued = wake
            heappush(self._queue, (wake, series.symbol))

    def first(self) -> Series | None:
        """Return the series that is to be woken first."""
        queue = self._queue
        while queue:
            wake, symbol = queue[0]
            series = self.series[symbol]
            if wake == series.queued:
                if wake == series.wake:
                    return series
                series.queued = None
            heappop(queue)
            self.queue(series)
        return None
