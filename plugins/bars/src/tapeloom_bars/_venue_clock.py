"""`VenueClock`: estimates the venue's clock and schedules the times at which bars close.

A bar must close on time even if no trade follows, on the venue's clock. The only measurements of that
clock are trades. Let `offset` be how far the venue's clock is ahead of ours (it may be negative) and
`delay` the latency of a trade. Then `ts - recv = offset - delay`. A delay is never negative, so the
largest `ts - recv` equals `offset - least delay`: it is the closest to the offset and never above it.
The projection `now + largest` is the venue's true time less the least delay, so a trade stamped before
it has had at least the least delay to arrive. Hence:

- A constant offset cancels out, in either direction.
- Delayed trades can only lower the estimate. A bar then closes later, never earlier. A trade misses
  its bar only if its delay exceeds the least delay seen plus the lateness.
- A maximum over all time would never recover if our clock is set forward, or the venue's back. So it
  is taken over the current and the previous minute of `recv`. Until both have passed after such a
  step, bars close early by the step, and the trades they miss revise them.

Minutes are minutes of `recv`, and only trades advance them, not batches or ticks.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

from tapeloom.plugin import TimeLimit

from ._interval_bars import NEVER
from ._symbol_bars import SymbolBars

if TYPE_CHECKING:
    from ._settings import Settings

__all__ = ["VenueClock"]

#: Length in ns of one window of the maximum.
_MINUTE = 60_000_000_000
#: Offset in ns before the first trade: lower than any real one.
_UNKNOWN = -(1 << 62)


class VenueClock:
    """Clock estimate of a feed's venue, and its symbols with the time at which each must close a bar.

    `offset` is the largest `ts - recv` of the current minute, `minute_start` to `minute_end`, in ns.
    `last_recv` is the `recv` of the last trade recorded, `last_ts` the time of the last live one.
    """

    __slots__ = (
        "_previous_offset",
        "_queue",
        "last_recv",
        "last_ts",
        "limit",
        "minute_end",
        "minute_start",
        "offset",
        "symbols",
    )

    def __init__(self, max_ahead: int) -> None:
        self.limit = TimeLimit(max_ahead)  #: which trades may move the clock
        self.symbols: dict[str, SymbolBars] = {}
        self.last_recv = self.last_ts = 0
        self.offset = _UNKNOWN
        self._previous_offset = _UNKNOWN
        self.minute_start = self.minute_end = 0
        self._queue: list[tuple[int, str]] = []

    def record_recv(self, recv: int) -> int:
        """Record a `recv`; return the `ts` above which a trade raises `offset`."""
        # Two connections may be read alternately, so `recv` may decrease slightly: not a new minute.
        if recv >= self.minute_end or recv < self.minute_start - _MINUTE:
            is_next_minute = self.minute_end <= recv < self.minute_end + _MINUTE
            self._previous_offset = self.offset if is_next_minute else _UNKNOWN
            self.offset = _UNKNOWN
            self.minute_start = recv - recv % _MINUTE
            self.minute_end = self.minute_start + _MINUTE
            if not self.limit.is_usual and is_next_minute:
                self.limit.exceeds(recv + self._previous_offset, recv)  # the clocks may be closer
        self.last_recv = recv
        if self.limit.pending:
            self.limit.pending = 0  # a trade whose time is believed ends the row of the others
        return recv + self.offset

    def raise_offset(self, ts: int) -> int:
        """Raise `offset` to that of a trade at *ts*; return the `ts` above which the next one raises it."""
        self.offset = ts - self.last_recv
        return ts

    @property
    def estimated_offset(self) -> int:
        """Estimate of how far the venue's clock is ahead of ours, less the least delay, in ns."""
        return max(self.offset, self._previous_offset)

    def now(self, recv: int) -> tuple[int, int]:
        """Return the earliest and the latest time in ns that the venue's clock may show at *recv*.

        By `estimated_offset` it is one time; but either clock may have been set since the offset was
        measured. The last live trade is the newest reading, and no clock tells for sure how long ago
        that was.
        """
        estimate = recv + self.estimated_offset
        if not self.last_ts:
            return estimate, estimate
        by_last = self.last_ts + max(recv - self.last_recv, 0)
        return min(self.last_ts, estimate), max(by_last, estimate)

    @property
    def has_offset(self) -> bool:
        """Whether a trade of this minute or the one before has shown the venue's clock."""
        return self.estimated_offset != _UNKNOWN

    def add_symbol(self, venue: str, symbol: str, settings: Settings) -> SymbolBars:
        """Add a symbol of the venue *venue*."""
        symbol_bars = self.symbols[symbol] = SymbolBars(venue, symbol, settings)
        return symbol_bars

    def schedule(self, symbol_bars: SymbolBars) -> None:
        """Schedule *symbol_bars* at its `wake_ts`.

        A queue entry may be too early when it is read, never too late; `next_due` corrects it. So a
        symbol needs a new entry only if its `wake_ts` is earlier than the one queued.
        """
        wake_ts = symbol_bars.wake_ts
        if wake_ts != NEVER and (
            symbol_bars.queued_wake is None or wake_ts < symbol_bars.queued_wake
        ):
            symbol_bars.queued_wake = wake_ts
            heappush(self._queue, (wake_ts, symbol_bars.symbol))

    def next_due(self) -> SymbolBars | None:
        """Return the symbol with the earliest `wake_ts`, None if no bar is due to close."""
        queue = self._queue
        while queue:
            wake_ts, symbol = queue[0]
            symbol_bars = self.symbols[symbol]
            if wake_ts == symbol_bars.queued_wake:
                if wake_ts == symbol_bars.wake_ts:
                    return symbol_bars
                symbol_bars.queued_wake = None
            heappop(queue)
            self.schedule(symbol_bars)
        return None
