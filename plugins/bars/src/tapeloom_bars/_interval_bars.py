"""The open and closed bars of one symbol and one interval.

`_symbol_bars` adds sums of trades to them. Bars close in order of start, each exactly once; a closed
bar can be revised for a while.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom.plugin import NO_CLOCK

from ._accumulator import BarAccumulator, TradeSum

if TYPE_CHECKING:
    from collections.abc import Iterator
    from decimal import Decimal

    from ._interval import Interval
    from ._settings import Settings

__all__ = ["NEVER", "IntervalBars"]

#: A time in ns that is never reached.
NEVER = 1 << 63
#: How many empty bars may be filled at once beyond those that fit into the time that has passed: the
#: delay of a trade varies, and trades of the past come many at a time.
_EXTRA_FILLS, _EXTRA_PAST_FILLS = 2, 1000


class IntervalBars:
    """Bars of one symbol and interval.

    `closed_until` is the start of the earliest interval that has not closed. `newest` is the open bar
    with the latest start, None if no bar is open.
    """

    __slots__ = (
        "_closed_bars",
        "_fill",
        "_fill_limit",
        "_fill_recv",
        "_filled_in_a_row",
        "_keep",
        "_last_close",
        "_last_close_start",
        "_open_bars",
        "_unused_fills",
        "closed_until",
        "interval",
        "length",
        "newest",
        "offset",
    )

    def __init__(
        self, interval: Interval, settings: Settings, closed_until: int, recv: int = 0
    ) -> None:
        self.interval = interval
        self.length = interval.length
        self.offset = interval.offset
        self.newest: BarAccumulator | None = None
        self._open_bars: dict[int, BarAccumulator] = {}
        self._closed_bars: dict[int, BarAccumulator] = {}
        # ns for which a closed bar may be revised; the setting counts intervals.
        self._keep = settings.keep * interval.length if settings.revise else 0
        self._fill = settings.empty == "fill"
        self._fill_limit = settings.fill_limit
        self._fill_recv = recv  # up to when our time has been counted, ns
        # How many more bars our time has room for than have closed.
        self._unused_fills = min(max(0, recv - closed_until) // self.length, _EXTRA_PAST_FILLS)
        self._filled_in_a_row = 0  # bars filled since the last bar with trades
        self._last_close: Decimal | None = None  # close price of the latest closed bar with trades
        self._last_close_start = 0  # start of that bar
        self.closed_until = self.start(closed_until)  # rounded down to the start of a bar

    def start(self, ts: int) -> int:
        """Return the start of the bar that contains *ts*."""
        return ts - (ts - self.offset) % self.length

    def open_bar(self, start: int) -> BarAccumulator:
        """Return the open bar that starts at *start* (>= `closed_until`); create it if needed."""
        accumulator = self._open_bars.get(start)
        if accumulator is None:
            accumulator = self._open_bars[start] = BarAccumulator(start, start + self.length)
            if self.newest is None or start > self.newest.start:
                self.newest = accumulator
        return accumulator

    def open_bars(self) -> list[BarAccumulator]:
        """Return the open bars in order of start."""
        return [self._open_bars[start] for start in sorted(self._open_bars)]

    def revisable(self) -> Iterator[BarAccumulator]:
        """Return the closed bars that were sent and may still be revised."""
        bound = self.closed_until - self._keep
        return (
            accumulator
            for accumulator in self._closed_bars.values()
            if accumulator.complete is not None and accumulator.start >= bound
        )

    def closed_bar(self, start: int) -> BarAccumulator | None:
        """Return the closed bar that starts at *start*, or None if it is too old to be revised."""
        if start < self.closed_until - self._keep:
            return None
        accumulator = self._closed_bars.get(start)
        if accumulator is None:  # the interval closed without a trade
            accumulator = self._closed_bars[start] = BarAccumulator(start, start + self.length)
        return accumulator

    def revise(self, accumulator: BarAccumulator, added: TradeSum) -> None:
        """Add late trades to a closed bar."""
        accumulator.merge(added)
        if accumulator.start >= self._last_close_start:
            self._last_close_start, self._last_close = accumulator.start, accumulator.close

    @property
    def next_end(self) -> int:
        """End of the earliest bar that has not closed, or `NEVER`."""
        if self._fill and self._last_close is not None and self._filled_in_a_row < self._fill_limit:
            return self.closed_until + self.length
        if not self._open_bars:
            return NEVER
        if len(self._open_bars) == 1 and self.newest is not None:
            return self.newest.end
        return min(self._open_bars) + self.length

    def close(
        self, until: int, recv: int = 0, *, by_time: bool = False, is_past: bool = False
    ) -> list[BarAccumulator]:
        """Close every bar that ends at or before *until*; return the bars to send, by start.

        No more empty bars are filled than fit into the time since the last call, by *recv*: a wrong time
        of the venue must not fill a year. *is_past*: the trade that closes them is not live.

        A trade also closes the empty intervals before it. A tick (*by_time*) closes only existing bars
        and fills. So the result does not depend on how often ticks occur, and the first trade after a
        pause is late only if a bar after it has closed.
        """
        target = self.start(until)
        if target <= self.closed_until:
            return []
        left_out = False
        if self._fill:
            if self._skip_unfillable(target, by_time=by_time):
                return []
            most = self._max_fills(target, recv, is_past=is_past)
            due, left_out = self._due_with_fills(target, most)
        else:
            due = [self._open_bars[start] for start in sorted(self._open_bars) if start < target]
        for accumulator in due:
            self._close_bar(accumulator)
        if left_out or not by_time:
            self.closed_until = target
        elif due:
            self.closed_until = due[-1].end
        bound = self.closed_until - self._keep
        while self._closed_bars and (oldest := next(iter(self._closed_bars))) < bound:
            del self._closed_bars[oldest]
        return [accumulator for accumulator in due if accumulator.trades or self._fill]

    def _skip_unfillable(self, target: int, *, by_time: bool) -> bool:
        """Close the intervals before the first open bar if they cannot be filled; return whether that is all.

        They take no room from `_max_fills`. A trade that is in order closes them only when a bar ends;
        if they counted, the number of filled bars would depend on when that is.
        """
        if self._last_close is not None and self._filled_in_a_row < self._fill_limit:
            return False
        first = min(self._open_bars, default=target)
        if first < target or not by_time:
            self.closed_until = max(self.closed_until, min(first, target))
        return first >= target

    def _max_fills(self, target: int, recv: int, *, is_past: bool) -> int:
        """Return how many empty bars may be filled up to *target*, and count the time up to it as used."""
        if recv < NO_CLOCK:
            return self._fill_limit
        elapsed = max(0, recv - self._fill_recv) // self.length
        self._fill_recv = min(self._fill_recv + elapsed * self.length, recv)
        unused = min(self._unused_fills + elapsed, self._fill_limit)
        self._unused_fills = max(0, unused - (target - self.closed_until) // self.length)
        return unused + (_EXTRA_PAST_FILLS if is_past else _EXTRA_FILLS)

    def _due_with_fills(self, target: int, max_fills: int) -> tuple[list[BarAccumulator], bool]:
        """Return the bars from `closed_until` to *target*, with a filled bar for each empty interval.

        After *max_fills* of them the other empty intervals are left out; the second value says whether.
        """
        due: list[BarAccumulator] = []
        left_out = False
        start, price, filled = self.closed_until, self._last_close, self._filled_in_a_row
        while start < target:
            accumulator = self._open_bars.get(start)
            if accumulator is None or not accumulator.trades:
                if price is None or filled >= self._fill_limit or max_fills <= 0:
                    left_out = left_out or max_fills <= 0
                    if accumulator is not None:
                        self._close_bar(accumulator)
                    later_starts = [opened for opened in self._open_bars if opened > start]
                    start = min(later_starts, default=target)
                    continue
                has_bad_trade = accumulator is not None
                accumulator = BarAccumulator(start, start + self.length, price)
                accumulator.has_bad_trade = has_bad_trade
                filled += 1
                max_fills -= 1
            else:
                price, filled = accumulator.close, 0
            due.append(accumulator)
            start += self.length
        self._filled_in_a_row = filled
        return due, left_out

    def _close_bar(self, accumulator: BarAccumulator) -> None:
        self._open_bars.pop(accumulator.start, None)
        if self.newest is not None and self.newest.start == accumulator.start:
            self.newest = None
        if accumulator.trades:
            self._last_close_start, self._last_close = accumulator.start, accumulator.close
        if self._keep:
            self._closed_bars[accumulator.start] = accumulator
