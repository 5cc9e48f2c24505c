"""The bars of one symbol, for all intervals.

Trades in order are only added to one sum, `running`. The hot loop in `_stage` does this itself while
`running.last_ts` <= ts < `in_order_until`. All other cases (a bar ends, a trade is out of order or
late) go to `rollover`, which merges the sum into the newest bar of every interval and then closes or
revises bars.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom.events import Bar, Event, Gap, Origin, Reject, Trade

from ._accumulator import EMPTY_SUM, BarAccumulator, TradeSum, finite_value
from ._interval_bars import NEVER, IntervalBars

if TYPE_CHECKING:
    from collections.abc import Hashable

    from ._settings import Settings

__all__ = ["KeyedBar", "SymbolBars"]

#: Channels whose trades count unless the setting `channel` names one.
DEFAULT_CHANNELS = ("trades", "agg_trades")
#: Gaps remembered per symbol. Bounds memory; beyond it the two oldest gaps are joined into one.
_MAX_GAPS = 256

#: End, interval length, symbol and bar. The first three are the sort key of the bars sent.
KeyedBar = tuple[int, int, str, Bar]


class SymbolBars:
    """Bars of one symbol. The hot loop in `_stage` reads `in_order_until` and updates `running`."""

    __slots__ = (
        "_first_ts",
        "_gaps",
        "_intervals",
        "_max_ts",
        "_rejects",
        "_settings",
        "channel",
        "in_order_until",
        "queued_wake",
        "running",
        "symbol",
        "venue",
        "wake_ts",
    )

    def __init__(self, venue: str, symbol: str, settings: Settings) -> None:
        self.venue = venue
        self.symbol = symbol
        self.channel: str | None = None  #: channel whose trades count; None until its first trade
        #: Sum of trades that belong to the newest bar of every interval and are not merged into these
        #: bars yet. With a single interval it is that newest bar itself.
        self.running: TradeSum = EMPTY_SUM
        self.in_order_until = 0  #: ns; a trade at this time or later ends a bar
        self.wake_ts = NEVER  #: venue time in ns at which the next bar closes
        self.queued_wake: int | None = None  #: the `wake_ts` under which it is scheduled
        self._settings = settings
        self._intervals: tuple[IntervalBars, ...] = ()
        self._first_ts = 0  # ts of the first trade
        self._max_ts = 0  # latest ts of any trade
        #: What lacks trades, from and to in ns, by the identity of the gap or rejected event.
        self._gaps: dict[Hashable, tuple[int, int]] = {}
        self._rejects: list[Event] = []

    def accepts(self, trade: Trade) -> bool:
        """Return whether *trade* counts. The first trade that counts fixes the channel."""
        if trade.origin == "history" and not self._settings.history:
            return False
        if self.channel is None:
            wanted = self._settings.channel
            if trade.channel == wanted or (not wanted and trade.channel in DEFAULT_CHANNELS):
                self.channel = trade.channel
        return trade.channel == self.channel

    @property
    def newest_ts(self) -> int:
        """The latest time of a trade that counts, in ns; 0 before the first."""
        return max(self._max_ts, self.running.last_ts)

    def merge_running(self) -> None:
        """Merge the running sum into the newest bar of every interval."""
        running, self.running = self.running, EMPTY_SUM
        if running is not EMPTY_SUM:
            for interval_bars in self._intervals:
                newest = interval_bars.newest
                if newest is not None and newest is not running:
                    newest.merge(running)
            self._max_ts = max(self._max_ts, running.last_ts)

    def add_in_order(self, trade: Trade) -> bool:
        """Add a trade in order to the running sum; return False if it must go to `rollover`."""
        running = self.running
        if (
            not running.last_ts <= trade.ts < self.in_order_until
            or (value := finite_value(trade)) is None
        ):
            return False
        running.add(trade, value)
        return True

    def rollover(self, trade: Trade) -> tuple[list[Event], list[Event]]:
        """Process a trade that ends a bar or is out of order; return the events before and after it."""
        ts = trade.ts
        if not self._intervals:
            self._start_intervals(ts, trade.recv)
        self.merge_running()
        self._max_ts = max(self._max_ts, ts)
        before = self._close_until(
            self._max_ts - self._settings.lateness,
            trade.recv,
            by_time=False,
            is_past=trade.origin != "live",
        )
        bars: list[Event] = [keyed[3] for keyed in before]
        after = self._add(trade)
        self._update_deadlines()
        return self._with_rejects(bars), after

    def gap(self, gap: Gap) -> list[KeyedBar]:
        """Record a gap, or remove a filled one; return revisions of the bars whose `complete` changes."""
        if gap.channel not in ("", self.channel) or not self._intervals:
            return []
        identity = gap.identity
        if gap.state != "filled":
            self._add_gap(identity, (gap.since, gap.until))
        elif self._gaps.pop(identity, None) is None:
            return []
        return self._revise_changed(gap.recv)

    def rejected(self, reject: Reject, now: tuple[int, int]) -> list[KeyedBar]:
        """Record that a trade was rejected, or may have been in a frame that was.

        *now* is the earliest and the latest time that the venue's clock may show, in ns. Returns
        revisions of the bars that it makes incomplete: that of the trade's time. A time that is too far
        ahead may be wrong, so then they are those of *now* as well. The time of a trade in a frame is
        *now* or within the lateness before it.
        """
        if reject.channel not in ("", self.channel) or not self._intervals:
            return []
        trade, (earliest, latest) = reject.event, now
        if trade is not None:
            self._add_gap(("reject", trade.ts), (trade.ts, trade.ts))
        if trade is None or reject.rule == "ahead":
            since = earliest - self._settings.lateness if trade is None else earliest
            self._add_gap(("reject", latest), (since, latest))
        return self._revise_changed(reject.recv)

    def doubt(self, ts: int) -> None:
        """Call the bar of *ts* incomplete: the time may be wrong, and other trades of it are still to come."""
        self._add_gap(("doubt", ts), (ts, ts))

    def _revise_changed(self, recv: int) -> list[KeyedBar]:
        """Return a revision of each closed bar whose `complete` has changed."""
        return [
            self._revise(interval_bars, accumulator, recv)
            for interval_bars in self._intervals
            for accumulator in interval_bars.revisable()
            if accumulator.complete != self._is_complete(accumulator)
        ]

    def _add_gap(self, identity: Hashable, gap_range: tuple[int, int]) -> None:
        self._gaps[identity] = gap_range
        if len(self._gaps) > _MAX_GAPS:  # join the two oldest and the time between them
            oldest, second = sorted(self._gaps, key=self._gaps.__getitem__)[:2]
            since, until = self._gaps.pop(oldest)
            self._gaps[second] = since, max(until, self._gaps[second][1])

    def reject_ahead(self, trade: Trade, agreed: str) -> list[Event]:
        """Return the Reject of a trade whose time is not believed, and revisions of closed bars.

        The newest bar is not complete, nor is the bar of that time: the venue's clock may have been set.
        """
        self.merge_running()
        self._update_deadlines()
        for interval_bars in self._intervals:
            if interval_bars.newest is not None:
                interval_bars.newest.has_bad_trade = True
        self._add_gap(("reject", trade.ts), (trade.ts, trade.ts))
        evidence = f"ts is {(trade.ts - trade.recv) / 1e9:.3f} s ahead of recv; {agreed}"
        revised = sorted(self._revise_changed(trade.recv), key=_sort_key)
        return [self._reject(trade, "ahead", evidence), *(bar for _, _, _, bar in revised)]

    def tick(self, projected: int, now: int) -> tuple[list[Event], list[KeyedBar]]:
        """Close the bars that ended by the venue time *projected*; return rejects and bars."""
        self.merge_running()
        keyed_bars = self._close_until(projected - self._settings.lateness, now, by_time=True)
        self._update_deadlines()
        return self._with_rejects([]), keyed_bars

    def flush(self, recv: int) -> tuple[list[Event], list[KeyedBar]]:
        """Return pending rejects, and the bars that are still forming, not closed, received at *recv*."""
        self.merge_running()
        self._update_deadlines()
        bars = [
            self._make_bar(interval_bars, accumulator, recv, closed=False)
            for interval_bars in self._intervals
            for accumulator in interval_bars.open_bars()
            if accumulator.trades
        ]
        return self._with_rejects([]), bars

    def _start_intervals(self, ts: int, recv: int) -> None:
        settings = self._settings
        closed_until = ts - settings.lateness
        self._first_ts = ts
        self._intervals = tuple(
            IntervalBars(interval, settings, closed_until, recv) for interval in settings.intervals
        )

    def _reject_not_finite(self, trade: Trade) -> None:
        """Keep a Reject of *trade* until `_with_rejects` returns it."""
        evidence = f"price {trade.price}, size {trade.size}: their product is not finite, so no bar contains this trade"
        self._rejects.append(self._reject(trade, "not_finite", evidence))

    def _with_rejects(self, bars: list[Event]) -> list[Event]:
        """Return the pending rejects followed by *bars*."""
        if not self._rejects:
            return bars
        rejects, self._rejects = self._rejects, []
        return rejects + bars

    def _close_until(
        self, until: int, recv: int, *, by_time: bool, is_past: bool = False
    ) -> list[KeyedBar]:
        keyed_bars = [
            self._make_bar(interval_bars, accumulator, recv)
            for interval_bars in self._intervals
            for accumulator in interval_bars.close(until, recv, by_time=by_time, is_past=is_past)
        ]
        if len(keyed_bars) > 1:
            keyed_bars.sort(key=_sort_key)
        return keyed_bars

    def _add(self, trade: Trade) -> list[Event]:
        """Add a trade to its bars; return the revisions and the reject that follow it."""
        ts, value = trade.ts, finite_value(trade)
        if value is None:
            return self._add_out_of_order(trade, None)
        added = TradeSum(trade, value)
        for interval_bars in self._intervals:
            start = interval_bars.start(ts)
            if (
                start < interval_bars.closed_until
                or interval_bars.open_bar(start) is not interval_bars.newest
            ):
                return self._add_out_of_order(trade, added)
        self.running = added
        if len(self._intervals) == 1 and interval_bars.newest is not None:
            # With a single interval the newest bar is itself the running sum.
            interval_bars.newest.merge(added)
            self.running = interval_bars.newest
        return []

    def _add_out_of_order(self, trade: Trade, added: TradeSum | None) -> list[Event]:
        """Add a trade to bars of which at least one is closed or not the newest.

        *added* is the sum of this trade alone; None if its price times size is not finite: then its bars
        become incomplete and `_with_rejects` returns its Reject. Returns the revised bars, and a Reject
        if the trade came too late for a bar.
        """
        if added is None:
            self._reject_not_finite(trade)
        revised: list[KeyedBar] = []
        closed_intervals: list[str] = []
        for interval_bars in self._intervals:
            start = interval_bars.start(trade.ts)
            late = start < interval_bars.closed_until
            accumulator = interval_bars.closed_bar(start) if late else interval_bars.open_bar(start)
            if accumulator is None:
                closed_intervals.append(
                    f"{interval_bars.interval.name} closed up to {interval_bars.closed_until}"
                )
            elif added is None:
                accumulator.has_bad_trade = True
                if late and accumulator.complete:
                    revised.append(self._revise(interval_bars, accumulator, trade.recv))
            elif late:
                interval_bars.revise(accumulator, added)
                revised.append(self._revise(interval_bars, accumulator, trade.recv))
            else:
                accumulator.merge(added)
        out: list[Event] = [bar for _, _, _, bar in sorted(revised, key=_sort_key)]
        if closed_intervals and added is not None:
            evidence = f"the bar of {trade.ts} is closed: {', '.join(closed_intervals)}"
            out.append(self._reject(trade, "late_trade", evidence))
        return out

    def _update_deadlines(self) -> None:
        """Set `in_order_until`, the limit of the hot loop, and `wake_ts`, the next time a bar closes."""
        wake_ts = until = NEVER
        for interval_bars in self._intervals:
            wake_ts = min(wake_ts, interval_bars.next_end)
            if interval_bars.newest is not None:
                until = min(until, interval_bars.newest.end)
        if wake_ts != NEVER:
            wake_ts += self._settings.lateness
        self.wake_ts = wake_ts
        # Without a running sum every trade must go to `rollover`.
        self.in_order_until = 0 if self.running is EMPTY_SUM else min(wake_ts, until)

    def _is_complete(self, accumulator: BarAccumulator) -> bool:
        start, end = accumulator.start, accumulator.end
        return (
            start > self._first_ts
            and not accumulator.has_bad_trade
            and not any(since < end and until >= start for since, until in self._gaps.values())
        )

    def _revise(
        self, interval_bars: IntervalBars, accumulator: BarAccumulator, recv: int
    ) -> KeyedBar:
        accumulator.revision += 1
        return self._make_bar(interval_bars, accumulator, recv)

    def _make_bar(
        self,
        interval_bars: IntervalBars,
        accumulator: BarAccumulator,
        recv: int,
        *,
        closed: bool = True,
    ) -> KeyedBar:
        if closed:
            accumulator.complete = self._is_complete(accumulator)
        origin: Origin = "built_from_trades" if accumulator.trades else "empty"
        has_side = accumulator.has_side  # a venue names the taker side of all trades or of none
        bar = Bar(
            self.venue,
            self.symbol,
            accumulator.start,
            recv,
            interval_bars.interval.name,
            accumulator.open,
            accumulator.high,
            accumulator.low,
            accumulator.close,
            accumulator.volume,
            accumulator.quote_volume,
            accumulator.buy_volume if has_side else None,
            accumulator.buy_quote_volume if has_side else None,
            accumulator.trades,
            closed,
            closed and bool(accumulator.complete),
            accumulator.revision,
            "bars",
            origin,
        )
        return accumulator.end, interval_bars.length, self.symbol, bar

    def _reject(self, trade: Trade, rule: str, evidence: str) -> Reject:
        return Reject(
            self.venue, self.symbol, trade.ts, trade.recv, rule, evidence, trade, trade.channel
        )


def _sort_key(keyed: KeyedBar) -> tuple[int, int, str]:
    return keyed[:3]
