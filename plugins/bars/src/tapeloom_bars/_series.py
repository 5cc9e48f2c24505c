"""The bars of one symbol, of every interval.

Trades in order are only added up (`running`): the hot loop in `_stage` does that by itself as long
as `running.ts` <= ts < `until`. Whatever else can happen, a bar that ends, a trade out of order or
late, comes to `rollover`, which puts the sum where it belongs and then looks at every interval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom.events import Bar, Event, Gap, Origin, Reject, Trade

from ._accumulator import NOTHING, BarAccumulator, TradeSum, worth
from ._interval_bars import NEVER, IntervalBars

if TYPE_CHECKING:
    from ._settings import Settings

__all__ = ["Closing", "Series"]

AUTOMATIC = ("trades", "agg_trades")
_MOST_GAPS = 256

#: end, length of the interval, symbol, and the bar: sorts as bars are to be sent
Closing = tuple[int, int, str, Bar]


class Series:
    """One symbol's bars. `until` and `running` belong to the hot loop as well."""

    __slots__ = (
        "_bad",
        "_first",
        "_gaps",
        "_intervals",
        "_mark",
        "_settings",
        "channel",
        "queued",
        "running",
        "symbol",
        "until",
        "venue",
        "wake",
    )

    def __init__(self, venue: str, symbol: str, settings: Settings) -> None:
        self.venue = venue
        self.symbol = symbol
        self.channel: str | None = None  #: whose trades count; None until one has come
        #: Trades in order, all of the newest bars: in none of them yet, or the one bar there is.
        self.running: TradeSum = NOTHING
        self.until = 0  #: a trade at this time or later ends a bar
        self.wake = NEVER  #: the venue's time at which the next bar closes
        self.queued: int | None = None  #: the wake that the stage has in its queue
        self._settings = settings
        self._intervals: tuple[IntervalBars, ...] = ()
        self._first = 0  # when we began to listen
        self._mark = 0  # the latest time of any trade
        self._gaps: list[tuple[int, int]] = []
        self._bad: list[Event] = []

    def admits(self, trade: Trade) -> bool:
        """Whether *trade* counts. The first one that may count decides for its channel."""
        if trade.origin == "history" and not self._settings.history:
            return False
        if self.channel is None:
            wanted = self._settings.channel
            if trade.channel == wanted or (not wanted and trade.channel in AUTOMATIC):
                self.channel = trade.channel
        return trade.channel == self.channel

    def settle(self) -> None:
        """Put the running sum into the newest bar of every interval."""
        running, self.running = self.running, NOTHING
        if running is not NOTHING:
            for interval_bars in self._intervals:
                newest = interval_bars.newest
                if newest is not None and newest is not running:
                    newest.merge(running)
            self._mark = max(self._mark, running.ts)

    def take(self, trade: Trade) -> bool:
        """Add a trade that is in order to the running sum; False where it is not that plain."""
        running = self.running
        if not running.ts <= trade.ts < self.until or (value := worth(trade)) is None:
            return False
        running.add(trade, value)
        return True

    def rollover(self, trade: Trade) -> tuple[list[Event], list[Event]]:
        """Take a trade that is no plain next one; return what goes before it and what after."""
        ts = trade.ts
        if not self._intervals:
            self._begin(ts)
        self.settle()
        self._mark = max(self._mark, ts)
        before = self._shut(self._mark - self._settings.lateness, trade.recv, by_time=False)
        bars: list[Event] = [closing[3] for closing in before]
        after = self._place(trade)
        self._look_ahead()
        return self._announced(bars), after

    def gap(self, gap: Gap) -> list[Closing]:
        """Note what is missing, or that it is missing no longer; return the bars that this changes."""
        if gap.channel not in ("", self.channel) or not self._intervals:
            return []
        hole = (gap.since, gap.until)
        if gap.state == "filled":
            if hole not in self._gaps:
                return []
            self._gaps.remove(hole)
        elif hole not in self._gaps:
            self._gaps.append(hole)
            if len(self._gaps) > _MOST_GAPS:  # the two oldest become one, with what is between
                one, two, *rest = sorted(self._gaps)
                self._gaps = [(one[0], max(one[1], two[1])), *rest]
        return [
            self._revision(interval_bars, tally, gap.recv)
            for interval_bars in self._intervals
            for tally in interval_bars.kept()
            if tally.complete != self._complete(tally)
        ]

    def tick(self, projected: int, now: int) -> tuple[list[Event], list[Closing]]:
        """Close what has ended by the venue's time *projected*; return rejects and bars."""
        self.settle()
        closings = self._shut(projected - self._settings.lateness, now, by_time=True)
        self._look_ahead()
        return self._announced([]), closings

    def flush(self, recv: int) -> tuple[list[Event], list[Closing]]:
        """Return the bars that are still forming, and what was wrong with their trades."""
        self.settle()
        self._look_ahead()
        bars = [
            self._closing(interval_bars, tally, recv, closed=False)
            for interval_bars in self._intervals
            for tally in interval_bars.opened()
            if tally.trades
        ]
        return self._announced([]), bars

    # ------------------------------------------------------------------------------------ inside

    def _begin(self, ts: int) -> None:
        settings = self._settings
        floor = ts - settings.lateness
        self._first = ts
        self._intervals = tuple(
            IntervalBars(interval, settings, floor) for interval in settings.intervals
        )

    def _set_aside(self, trade: Trade) -> None:
        evidence = f"price {trade.price}, size {trade.size}: no finite number, so in no bar"
        self._bad.append(self._reject(trade, "not_finite", evidence))

    def _announced(self, bars: list[Event]) -> list[Event]:
        """Return *bars* with the rejects before them that their trades have earned."""
        if not self._bad:
            return bars
        bad, self._bad = self._bad, []
        return bad + bars

    def _shut(self, until: int, recv: int, *, by_time: bool) -> list[Closing]:
        closings = [
            self._closing(interval_bars, tally, recv)
            for interval_bars in self._intervals
            for tally in interval_bars.close(until, by_time=by_time)
        ]
        if len(closings) > 1:
            closings.sort(key=_order)
        return closings

    def _place(self, trade: Trade) -> list[Event]:
        """Put a trade where it belongs; return the revisions and the reject that follow it."""
        ts, value = trade.ts, worth(trade)
        if value is None:
            return self._place_apart(trade, None)
        added = TradeSum(trade, value)
        for interval_bars in self._intervals:
            start = interval_bars.start(ts)
            if start < interval_bars.floor or interval_bars.open(start) is not interval_bars.newest:
                return self._place_apart(trade, added)
        self.running = added
        if len(self._intervals) == 1 and interval_bars.newest is not None:
            # Of a single interval the newest bar is itself the running sum.
            interval_bars.newest.merge(added)
            self.running = interval_bars.newest
        return []

    def _place_apart(self, trade: Trade, added: TradeSum | None) -> list[Event]:
        """Put a trade into bars that are not the newest, or not open any more."""
        if added is None:
            self._set_aside(trade)
        revised: list[Closing] = []
        lost: list[str] = []
        for interval_bars in self._intervals:
            start = interval_bars.start(trade.ts)
            late = start < interval_bars.floor
            tally = interval_bars.late(start) if late else interval_bars.open(start)
            if tally is None:
                lost.append(f"{interval_bars.interval.name} closed up to {interval_bars.floor}")
            elif added is None:
                tally.flawed = True
                if late and tally.complete:
                    revised.append(self._revision(interval_bars, tally, trade.recv))
            elif late:
                interval_bars.revise(tally, added)
                revised.append(self._revision(interval_bars, tally, trade.recv))
            else:
                tally.merge(added)
        out: list[Event] = [closing[3] for closing in sorted(revised, key=_order)]
        if lost and added is not None:
            evidence = f"the bar of {trade.ts} is closed: {', '.join(lost)}"
            out.append(self._reject(trade, "late_trade", evidence))
        return out

    def _look_ahead(self) -> None:
        """Work out up to when the hot loop can do without us, and when time will need us."""
        wake = until = NEVER
        for interval_bars in self._intervals:
            wake = min(wake, interval_bars.ends)
            if interval_bars.newest is not None:
                until = min(until, interval_bars.newest.end)
        if wake != NEVER:
            wake += self._settings.lateness
        self.wake = wake
        # Without a running sum there is nothing to add to.
        self.until = 0 if self.running is NOTHING else min(wake, until)

    def _complete(self, tally: BarAccumulator) -> bool:
        start, end = tally.start, tally.end
        return (
            start > self._first
            and not tally.flawed
            and not any(since < end and until >= start for since, until in self._gaps)
        )

    def _revision(self, interval_bars: IntervalBars, tally: BarAccumulator, recv: int) -> Closing:
        tally.revision += 1
        return self._closing(interval_bars, tally, recv)

    def _closing(
        self, interval_bars: IntervalBars, tally: BarAccumulator, recv: int, *, closed: bool = True
    ) -> Closing:
        if closed:
            tally.complete = self._complete(tally)
        origin: Origin = "built_from_trades" if tally.trades else "empty"
        sided = tally.sided  # venues tell the taker of every trade, or of none
        bar = Bar(
            self.venue,
            self.symbol,
            tally.start,
            recv,
            interval_bars.interval.name,
            tally.open,
            tally.high,
            tally.low,
            tally.close,
            tally.volume,
            tally.quote_volume,
            tally.bought if sided else None,
            tally.bought_quote if sided else None,
            tally.trades,
            closed,
            closed and bool(tally.complete),
            tally.revision,
            "bars",
            origin,
        )
        return tally.end, interval_bars.length, self.symbol, bar

    def _reject(self, trade: Trade, rule: str, evidence: str) -> Reject:
        return Reject(
            self.venue, self.symbol, trade.ts, trade.recv, rule, evidence, trade, trade.channel
        )


def _order(closing: Closing) -> tuple[int, int, str]:
    return closing[:3]
