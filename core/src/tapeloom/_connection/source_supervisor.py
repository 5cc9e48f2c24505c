"""Keeps a `Source` running: reports its failures, and runs it again after a pause."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from tapeloom.errors import FeedError
from tapeloom.events import OURS, Event
from tapeloom.plugin import Relay, Subscription
from tapeloom.plugin.bounds import reject_out_of_bounds

from .handover import Emit
from .supervisor import Reconnects

if TYPE_CHECKING:
    from tapeloom._compose.plan import FeedPlan


class SourceSupervisor:
    """Keeps a `Source` running, as a `Supervisor` keeps an endpoint connected.

    The batches of a `Relay` are given to *emit* as they are.
    """

    def __init__(self, plan: FeedPlan, emit: Emit) -> None:
        self._plan = plan
        self._feed = plan.feed
        self._clock = plan.feed.clock
        self._emit = emit
        self._reconnects = Reconnects(plan, plan.feed.name, emit)
        self._gaps = plan.gaps
        self._active: set[tuple[str, str]] = set()
        self._last_recv = 0

    async def run(self) -> None:
        """Run the source until it returns, or until cancelled.

        Raises FeedError if another attempt is pointless, or if `max_attempts` have failed.
        """
        source = self._plan.source
        assert source is not None
        deliver = self._emit if isinstance(source, Relay) else self._deliver
        while True:
            started = self._clock.monotonic()
            try:
                return await source.run(deliver)
            except FeedError as error:
                if not error.retryable:
                    raise
                failure = error
            if not source.resumes:
                lost = self._last_recv or self._clock.time_ns()
                self._gaps.connection_lost([*self._gaps.live], lost, separate=True)
            await self._reconnects.wait(failure, self._clock.monotonic() - started)

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
