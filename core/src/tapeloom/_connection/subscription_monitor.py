"""The state of one supervisor's subscriptions: live, stalled, and what was missed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from tapeloom._gaps.gap_tracker import GapTracker, OnGap
from tapeloom._gaps.last_seen import LastSeen
from tapeloom.events import Event
from tapeloom.plugin import ClockStepDetector, Feed, Subscription

from .clock_monitor import ClockAlert, ClockMonitor
from .stall_detector import StallDetector, Stalled
from .subscriptions import Subscriptions


class CheckResult(NamedTuple):
    """What the supervisor has to do after a check."""

    gaps: list[Event]  #: to emit: gaps after which no event has come yet
    clock_alerts: Sequence[ClockAlert]  #: to report: about the venue's clock
    stalled: Sequence[Stalled]  #: to resubscribe
    end_reason: str  #: why the connection is to be ended; empty if it is not


class SubscriptionMonitor:
    """Processes events and replies for gaps and stalls; `check` is called once a second."""

    def __init__(self, feed: Feed, on_gap: OnGap | None = None) -> None:
        self.last_seen = LastSeen()
        self.gaps = GapTracker(feed.venue, self.last_seen, *((on_gap,) if on_gap else ()))
        self._clock = feed.clock
        self._counters = feed.counters
        self._stalls = StallDetector()
        self._venue_clock = ClockMonitor()
        self._clock_steps = ClockStepDetector(feed.clock)

    # -------------------------------------------------------------------------- events and replies

    def process(self, batch: list[Event], subscriptions: Subscriptions) -> list[Event]:
        """Return *batch* with the gaps that end with it."""
        if not batch:
            return batch
        if subscriptions.has_pending:
            self.gaps.mark_live(batch, subscriptions.pending(), subscriptions.wanted)
        return self.gaps.process(batch, self._counters)

    def live(self, subscriptions: Sequence[Subscription], replied_at: int | None) -> None:
        """Record live subscriptions; *replied_at*: when the reply arrived in ns, or None."""
        now = self._clock.monotonic()
        self.gaps.live.update(subscriptions)
        self._stalls.start(subscriptions, now)
        if replied_at is not None:
            self.gaps.confirmed(subscriptions, replied_at, now)

    def refused(self, subscriptions: Sequence[Subscription], replied_at: int) -> None:
        """Record subscriptions the venue refused; *replied_at* is when the reply arrived, in ns."""
        self.gaps.confirmed(subscriptions, replied_at, self._clock.monotonic())
        self.gaps.live.difference_update(subscriptions)
        self._stalls.forget(subscriptions)

    def connection_lost(
        self, last_recv: int, last_byte: float, but: Collection[Subscription] = ()
    ) -> None:
        """Open gaps as a connection ends, *but* for the subscriptions live on another one.

        They begin with the last read at *last_recv* in ns, or earlier where a subscription may have
        stalled by then. *last_byte* is the time of the last byte in monotonic seconds.
        """
        now, monotonic = self._clock.time_ns(), self._clock.monotonic()
        # Checked once a second, so each may have had its last event a second earlier.
        since = self._stalls.maybe_stalled(last_byte) if last_recv else {}
        maybe_stalled = {
            stalled: now - round((monotonic - at + 1.0) * 1e9) for stalled, at in since.items()
        }
        self.gaps.open_all(last_recv, but, maybe_stalled)
        if not but:
            self._stalls.pause()

    def reset_deadlines(self) -> None:
        """Restart all timeouts: we did not read, so the silence was not the venue's."""
        self._stalls.reset_deadlines(self._clock.monotonic())

    def forget(self, subscriptions: Collection[Subscription]) -> None:
        """Remove subscriptions that have ended."""
        self.gaps.forget(subscriptions)
        self.last_seen.forget(subscriptions)
        self._stalls.forget(subscriptions)
        self._venue_clock.forget((ended.symbol, ended.channel) for ended in subscriptions)

    def event_rate(self, subscription: Subscription) -> float:
        """Return the events per second of *subscription*, 0.0 if unknown."""
        return self._stalls.event_rate(subscription)

    # --------------------------------------------------------------------------- once a second

    def check_own_clock(self) -> None:
        """Restart what compares the venue's clock with ours, if ours was set."""
        if self._clock_steps.was_set():
            self.last_seen.clock_offset.reset_offsets()
            self._venue_clock.own_clock_set(self._clock.time_ns())

    def check(self) -> CheckResult:
        """Return what to report, resubscribe or end. To be called once a second."""
        now, tracker = self._clock.monotonic(), self.gaps
        gaps = tracker.overdue(now)
        if gaps:
            self._counters["gaps"] += len(gaps)
        alerts = self._venue_clock.check(self.last_seen.pop_sample())
        stalled = self._stalls.check(self.last_seen.pop_active(), now)
        if silent_seconds := self._stalls.all_silent_for(now):
            reason = f"no subscription had an event for {silent_seconds:.0f} s"
            return CheckResult(gaps, alerts, (), reason)
        for stall in stalled:
            if stall.may_have_missed:
                # Checked once a second, so its last event may be a second older.
                seconds = stall.silent_seconds + 1.0
                tracker.open_stalled(stall.subscription, self._clock.time_ns(), seconds)
        regular = [stall for stall in stalled if stall.usual_pause is not None]
        if self._stalls.is_majority(regular) or any(stall.stalls == 2 for stall in regular):
            return CheckResult(gaps, alerts, (), describe(regular))
        return CheckResult(gaps, alerts, stalled, "")


def describe(stalled: Sequence[Stalled]) -> str:
    """Return a sentence that names what has stalled and for how long."""
    first, more = stalled[0], len(stalled) - 1
    usual = f", usually every {first.usual_pause:.1f} s" if first.usual_pause is not None else ""
    others = f" (and {more} more)" if more else ""
    return f"no event of {first.subscription}{others} for {first.silent_seconds:.0f} s{usual}"
