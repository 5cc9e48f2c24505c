"""The life of a source: run, tell when it breaks, and run again, after a pause."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING

import structlog

from tapeloom._gaps.gap_tracker import GapTracker, Missed
from tapeloom._gaps.last_seen import LastSeen
from tapeloom._runtime.backoff import Backoff
from tapeloom.errors import FeedError, RetriesExhausted, Throttled
from tapeloom.events import OURS, Event, Status
from tapeloom.plugin import Subscription

if TYPE_CHECKING:
    from tapeloom._compose.plan import FeedPlan


log = structlog.get_logger()


class SourceSupervisor:
    """Keeps a `Source` running, as a `Supervisor` keeps a connection."""

    def __init__(
        self, plan: FeedPlan, emit: Callable[[list[Event]], Awaitable[None]], missed: Missed
    ) -> None:
        self._plan = plan
        self._feed = plan.feed
        self._clock = plan.feed.clock
        self._emit = emit
        self._backoff = Backoff(plan.feed.random, most=plan.spec.max_attempts)
        self._memory = LastSeen()
        self._holes = GapTracker(plan.feed.venue, self._memory, missed, apart=True)
        self._seen: set[tuple[str, str]] = set()
        self._last_recv = 0

    async def run(self) -> None:
        """Run the source until it has no more, or until cancelled.

        Raises FeedError where going on is pointless, or where the feed's `max_attempts` have all failed.
        """
        source = self._plan.source
        assert source is not None
        while True:
            started, pause = self._clock.monotonic(), 0.0
            try:
                return await source.run(self._take)
            except FeedError as error:
                if not error.retryable:
                    raise
                failure = error
                if isinstance(error, Throttled):
                    pause = error.retry_after_seconds or 0.0
            if not source.resumes:
                self._holes.cut(self._last_recv or self._clock.time_ns())
            self._backoff.lived(self._clock.monotonic() - started)
            pause = max(pause, self._backoff.next())
            if self._backoff.spent:
                raise RetriesExhausted(
                    self._feed.name, self._backoff.attempt, str(failure)
                ) from failure
            await self._again(str(failure), pause)

    def holes(self) -> list[Event]:
        """Return a Gap for each hole that is open as all ends."""
        return self._holes.end(self._clock.time_ns())

    async def _again(self, reason: str, pause: float) -> None:
        feed, now = self._feed, self._clock.time_ns()
        feed.counters["reconnects"] += 1
        log.warning(
            "feed_reconnecting",
            feed=feed.name,
            connection=feed.name,
            reason=reason,
            attempt=self._backoff.attempt,
            delay=round(pause, 2),
        )
        detail = f"{feed.name}: {reason.rstrip('.')}; next try in {pause:.1f} s"
        status = Status(feed.venue, "", now, now, "reconnecting", detail)
        await self._emit([status])
        await self._clock.sleep(pause)

    async def _take(self, events: list[Event]) -> None:
        """Stage and deliver what the source brings."""
        if not events:
            return
        self._last_recv = events[-1].recv
        self._note(events)
        await self._emit(self._holes.take(events, self._feed.counters))

    def _note(self, events: list[Event]) -> None:
        """Note what is live: of a source, whatever has brought something, and is wanted."""
        new = {
            (event.symbol, event.channel) for event in events if type(event) not in OURS
        } - self._seen
        if new:
            wanted = set(self._feed.symbols)
            new = {one for one in new if one[0] in wanted}
            self._seen |= new
            self._holes.live.update(Subscription(*one) for one in new)

    def forget(self, symbols: Collection[str]) -> None:
        """Take note that nobody wants these any more."""
        gone = {one for one in self._seen if one[0] in symbols}
        self._seen -= gone
        some = [Subscription(*one) for one in gone]
        self._holes.forget(some)
        self._memory.forget(some)
