"""What is checked once a second for a whole feed: gaps without an event after them, and clocks."""

from __future__ import annotations

import structlog

from tapeloom._compose.plan import FeedPlan
from tapeloom._connection.clock_monitor import ClockMonitor
from tapeloom.events import Event, Status
from tapeloom.plugin import ClockStepDetector

log = structlog.get_logger()

#: The pause between two checks is a second, and grows up to this while no subscription has begun.
_MAX_PAUSE_SECONDS = 10.0


class FeedMonitor:
    """Checks the gaps of a feed, the venue's clock and our own."""

    def __init__(self, plan: FeedPlan) -> None:
        self._feed = plan.feed
        self._gaps = plan.gaps
        self._facts = plan.facts
        self._venue_clock = ClockMonitor()
        self._clock_steps = ClockStepDetector(plan.feed.clock)
        self._pause_seconds = 0.5

    def pause_seconds(self) -> float:
        """Return how long to wait before the next check: longer while no subscription has begun."""
        is_idle = not self._gaps.live and not self._gaps.watched
        self._pause_seconds = min(2 * self._pause_seconds, _MAX_PAUSE_SECONDS) if is_idle else 1.0
        return self._pause_seconds

    def check(self) -> list[Event]:
        """Return the gaps to report, and a Status for each alert about the venue's clock."""
        clock, last_seen = self._feed.clock, self._gaps.last_seen
        now = clock.time_ns()
        self._facts.record(now, "feed_checked")
        self._gaps.clocks.check()
        if self._clock_steps.was_set():
            self._venue_clock.own_clock_set(now)
        events = self._gaps.overdue(clock.monotonic())
        for alert in self._venue_clock.check(last_seen.pop_sample()):
            log.warning("venue_clock", feed=self._feed.name, state=alert.state, reason=alert.detail)
            place = self._feed.venue, alert.symbol, now, now
            events.append(Status(*place, alert.state, alert.detail, alert.channel))
            if alert.offset is not None:
                self._gaps.clocks.venue_clock_set(alert.offset)
        return events
