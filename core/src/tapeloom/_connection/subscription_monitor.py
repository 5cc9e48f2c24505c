"""The state of one supervisor's subscriptions: live, stalled, refused."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from tapeloom._gaps.gap_tracker import GapTracker
from tapeloom._runtime.taps import FactLog
from tapeloom.events import Event
from tapeloom.plugin import Clock, Subscription

from .stall_detector import StallDetector, Stalled
from .subscriptions import Subscriptions

#: Minimum seconds between two resubscribes of one subscription.
_RESUBSCRIBE_SECONDS = 5.0


class CheckResult(NamedTuple):
    """What the supervisor has to do after a check."""

    stalled: Sequence[Stalled]  #: to resubscribe
    end_reason: str  #: why the connection is to be ended; empty if it is not


class SubscriptionMonitor:
    """Processes replies and events for gaps and stalls; `check` is called once a second.

    *gaps* is the feed's own tracker, which all its supervisors share. What the tracker is told is
    recorded in *facts*, so that a replay can tell it the same.
    """

    def __init__(self, gaps: GapTracker, clock: Clock, facts: FactLog | None = None) -> None:
        self._gaps = gaps
        self._clock = clock
        self._facts = facts or FactLog(clock)
        self._stalls = StallDetector()
        self._resubscribed: dict[Subscription, float] = {}  # when each was last, in seconds

    # -------------------------------------------------------------------------- events and replies

    def process(self, batch: list[Event], subscriptions: Subscriptions) -> list[Event]:
        """Return *batch* with the gaps that end with it, and add it to the last seen events."""
        if not batch:
            return batch
        if subscriptions.has_pending:
            pending, wanted = subscriptions.pending(), subscriptions.wanted
            if new := self._gaps.mark_live(batch, pending, wanted):
                self._facts.record(batch[0].recv, "live", of=[*new], replied_at=None)
        processed = self._gaps.process(batch)
        self._gaps.last_seen.add(batch)
        return processed

    def live(self, subscriptions: Sequence[Subscription], replied_at: int | None) -> None:
        """Record live subscriptions; *replied_at*: when the reply arrived in ns, or None."""
        now, ts = self._clock.monotonic(), replied_at or self._clock.time_ns()
        self._facts.record(ts, "live", of=subscriptions, replied_at=replied_at)
        self._gaps.live.update(subscriptions)
        self._stalls.start(subscriptions, now)
        if replied_at is not None:
            self._gaps.confirmed(subscriptions, replied_at, now)

    def refused(self, subscriptions: Sequence[Subscription], replied_at: int) -> None:
        """Record subscriptions the venue refused; *replied_at* is when the reply arrived, in ns."""
        self._facts.record(replied_at, "refused", of=subscriptions)
        self._gaps.confirmed(subscriptions, replied_at, self._clock.monotonic())
        self._gaps.live.difference_update(subscriptions)
        self._stalls.forget(subscriptions)

    def connection_lost(
        self,
        subscriptions: Iterable[Subscription],
        last_recv: int,
        last_byte: float,
        *,
        replaced: bool,
    ) -> None:
        """Open gaps of *subscriptions* as their connection ends.

        They begin with the last read at *last_recv* in ns, or earlier where a subscription may have
        stalled by then. *last_byte* is the time of the last byte in monotonic seconds. *replaced*:
        another connection goes on, so that the timeouts for stalls run on.
        """
        now, monotonic = self._clock.time_ns(), self._clock.monotonic()
        # Checked once a second, so each may have had its last event a second earlier.
        since = self._stalls.maybe_stalled(last_byte) if last_recv else {}
        maybe_stalled = {
            stalled: now - round((monotonic - at + 1.0) * 1e9) for stalled, at in since.items()
        }
        lost = [*subscriptions]
        self._facts.record(
            now, "lost", of=lost, last_recv=last_recv, maybe_stalled=[*maybe_stalled.items()]
        )
        self._gaps.connection_lost(lost, last_recv, maybe_stalled)
        if not replaced:
            self._stalls.pause()

    def not_read_for(self, seconds: float) -> None:
        """Do not count the last *seconds* as silence of the venue: we did not read."""
        self._stalls.not_read_for(seconds, self._clock.monotonic())

    def forget(self, subscriptions: Collection[Subscription]) -> None:
        """Remove subscriptions that have ended."""
        self._facts.record(self._clock.time_ns(), "forgotten", of=[*subscriptions])
        self._gaps.forget(subscriptions)
        self._stalls.forget(subscriptions)

    def event_rate(self, subscription: Subscription) -> float:
        """Return the events per second of *subscription*, 0.0 if unknown."""
        return self._stalls.event_rate(subscription)

    def pause_before_resubscribe(self, subscriptions: Sequence[Subscription]) -> float:
        """Return in how many seconds these may be subscribed again, and record that they will be."""
        now, last, interval = self._clock.monotonic(), self._resubscribed, _RESUBSCRIBE_SECONDS
        due = max([now, *(last.get(renewed, -interval) + interval for renewed in subscriptions)])
        last.update(dict.fromkeys(subscriptions, due))
        return due - now

    # --------------------------------------------------------------------------- once a second

    def check(self, subscriptions: Collection[Subscription], reads: int) -> CheckResult:
        """Return what to resubscribe or end. To be called once a second with all subscriptions.

        *reads* is the number of reads with events since the last call.
        """
        now = self._clock.monotonic()
        self._facts.record(self._clock.time_ns(), "stalls_checked")
        active = self._gaps.last_seen.pop_active(subscriptions)
        stalled = self._stalls.check(active, now, reads)
        if silent_seconds := self._stalls.all_silent_for(now):
            reason = f"no subscription had an event for {silent_seconds:.0f} s"
            return CheckResult((), reason)
        for stall in stalled:
            if stall.may_have_missed:
                # Checked once a second, so its last event may be a second older.
                seconds, ts = stall.silent_seconds + 1.0, self._clock.time_ns()
                self._facts.record(ts, "stalled", of=stall.subscription, seconds=seconds)
                self._gaps.stalled(stall.subscription, ts, seconds)
        regular = [stall for stall in stalled if stall.usual_pause is not None]
        if self._stalls.is_majority(regular) or any(stall.stalls == 2 for stall in regular):
            return CheckResult((), describe(regular))
        return CheckResult(stalled, "")


def describe(stalled: Sequence[Stalled]) -> str:
    """Return a sentence that names what has stalled and for how long."""
    first, more = stalled[0], len(stalled) - 1
    usual = f", usually every {first.usual_pause:.1f} s" if first.usual_pause is not None else ""
    others = f" (and {more} more)" if more else ""
    return f"no event of {first.subscription}{others} for {first.silent_seconds:.0f} s{usual}"
