"""Keeps a `Source` running: reports its failures, and runs it again after a pause."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING

import structlog

from tapeloom._runtime.backoff import Backoff
from tapeloom.errors import FeedError, RetriesExhausted, Throttled
from tapeloom.events import OURS, Event, Status
from tapeloom.plugin import Subscription
from tapeloom.plugin.bounds import reject_out_of_bounds

if TYPE_CHECKING:
    from tapeloom._compose.plan import FeedPlan


log = structlog.get_logger()


class SourceSupervisor:
    """Keeps a `Source` running, as a `Supervisor` keeps an endpoint connected."""

    def __init__(self, plan: FeedPlan, emit: Callable[[list[Event]], Awaitable[None]]) -> None:
        self._plan = plan
        self._feed = plan.feed
        self._clock = plan.feed.clock
        self._emit = emit
        self._backoff = Backoff(plan.feed.random, max_attempts=plan.spec.max_attempts)
        self._gaps = plan.gaps
        self._active: set[tuple[str, str]] = set()
        self._last_recv = 0

    async def run(self) -> None:
        """Run the source until it returns, or until cancelled.

        Raises FeedError if another attempt is pointless, or if `max_attempts` have failed.
        """
        source = self._plan.source
        assert source is not None
        while True:
            started, pause = self._clock.monotonic(), 0.0
            try:
                return await source.run(self._deliver)
            except FeedError as error:
                if not error.retryable:
                    raise
                failure = error
                if isinstance(error, Throttled):
                    pause = error.retry_after_seconds or 0.0
            if not source.resumes:
                lost = self._last_recv or self._clock.time_ns()
                self._gaps.connection_lost([*self._gaps.live], lost, separate=True)
            self._backoff.record_lifetime(self._clock.monotonic() - started)
            pause = max(pause, self._backoff.next())
            if self._backoff.exhausted:
                attempts = self._backoff.attempt
                raise RetriesExhausted(self._feed.name, attempts, str(failure)) from failure
            await self._pause(str(failure), pause)

    async def _pause(self, reason: str, seconds: float) -> None:
        feed, now = self._feed, self._clock.time_ns()
        feed.counters["reconnects"] += 1
        log.warning(
            "feed_reconnecting", feed=feed.name, connection=feed.name, reason=reason,
            attempt=self._backoff.attempt, delay=round(seconds, 2),
        )  # fmt: skip
        detail = f"{feed.name}: {reason.rstrip('.')}; next try in {seconds:.1f} s"
        status = Status(feed.venue, "", now, now, "reconnecting", detail)
        await self._emit([status])
        await self._clock.sleep(seconds)

    async def _deliver(self, events: list[Event]) -> None:
        """Insert gaps and emit a batch of the source."""
        if not events:
            return
        events = reject_out_of_bounds(events)
        self._last_recv = events[-1].recv
        self._mark_live(events)
        processed = self._gaps.process(events)
        self._gaps.last_seen.add(events)
        await self._emit(processed)

    def _mark_live(self, events: list[Event]) -> None:
        """Mark subscriptions live at their first event: a source sends no acknowledgements."""
        new = {
            (event.symbol, event.channel) for event in events if type(event) not in OURS
        } - self._active
        if new:
            wanted = set(self._feed.symbols)
            new = {key for key in new if key[0] in wanted}
            self._active |= new
            self._gaps.live.update(Subscription(*key) for key in new)

    def forget(self, symbols: Collection[str]) -> None:
        """Remove the subscriptions of these symbols: they are no longer wanted."""
        dropped = {key for key in self._active if key[0] in symbols}
        self._active -= dropped
        subscriptions = [Subscription(*key) for key in dropped]
        self._gaps.forget(subscriptions)
