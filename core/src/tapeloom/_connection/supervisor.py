"""Keeps one endpoint connected: reconnects after each end, subscribes again where data stalls."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import structlog

from tapeloom._compose.plan import FeedPlan
from tapeloom._runtime.backoff import Backoff
from tapeloom._runtime.rate_limits import EndpointLimits, RateLimits
from tapeloom.errors import ConnectionFailed, ConnectionLost, FeedError, RetriesExhausted, Throttled
from tapeloom.events import Status
from tapeloom.plugin import ConnectionState, Endpoint, Subscription

from .connection import PLANNED, Connection, ConnectionSetup
from .frame_intake import FeedIntake
from .handover import MIN_LIFE_SECONDS, ConnectionPair, Emit
from .stall_detector import Stalled
from .subscription_monitor import SubscriptionMonitor, describe

log = structlog.get_logger()


class Reconnects:
    """Waits, after a connection or a source has ended, until the next attempt."""

    def __init__(self, plan: FeedPlan, label: str, emit: Emit) -> None:
        self._feed = plan.feed
        self._facts = plan.facts
        self._label = label
        self._emit = emit
        self._backoff = Backoff(plan.feed.random, max_attempts=plan.spec.max_attempts)

    async def wait(self, outcome: str | FeedError, lived: float, *, at_once: bool = False) -> None:
        """Report the end of what lasted *lived* seconds, and wait.

        The backoff does not count an end after which the next attempt may follow *at_once*. Raises
        RetriesExhausted if the feed's `max_attempts` have failed.
        """
        feed, reason, seconds = self._feed, str(outcome), 0.0
        if isinstance(outcome, Throttled):
            seconds = outcome.retry_after_seconds or 0.0  # the venue demands it
        self._backoff.record_lifetime(lived)
        if not at_once:
            seconds = max(seconds, self._backoff.next())
            if self._backoff.exhausted:
                failure = outcome if isinstance(outcome, FeedError) else None
                raise RetriesExhausted(feed.name, self._backoff.attempt, reason) from failure
        feed.counters["reconnects"] += 1
        log.warning(
            "feed_reconnecting", feed=feed.name, connection=self._label, reason=reason,
            attempt=self._backoff.attempt, delay=round(seconds, 2),
        )  # fmt: skip
        detail = f"{self._label}: {reason.rstrip('.')}; next try in {seconds:.1f} s"
        now = feed.clock.time_ns()
        status = Status(feed.venue, "", now, now, "reconnecting", detail)
        await self._emit([self._facts.status(status)])
        await feed.clock.sleep(seconds)


class Supervisor:
    """Keeps one endpoint connected, and holds the subscriptions that it carries."""

    def __init__(
        self,
        plan: FeedPlan,
        endpoint: Endpoint,
        subscriptions: Sequence[Subscription],
        intake: FeedIntake,
        emit: Emit,
        rate_limits: RateLimits,
        *,
        label: str = "",
    ) -> None:
        self.endpoint = endpoint
        self.label = label or endpoint.name or plan.feed.name
        self.wanted: list[Subscription] = list(subscriptions)
        self._feed = plan.feed
        self._facts = plan.facts
        self._emit = emit
        self._monitor = SubscriptionMonitor(plan.gaps, plan.feed.clock, plan.facts)
        self._reconnects = Reconnects(plan, self.label, emit)
        self._was_connected = False
        limits = EndpointLimits(rate_limits, endpoint)
        setup = ConnectionSetup(
            plan, endpoint, self.label, self.wanted, intake, limits, self._monitor,
            self.report, self._check,
        )  # fmt: skip
        self._pair = ConnectionPair(setup, emit)
        self._scope = anyio.CancelScope()

    # ----------------------------------------------------------------------------------- lifecycle

    async def run(self) -> None:
        """Stay connected until cancelled or until `leave`.

        Raises FeedError if another attempt is pointless: the venue refuses permanently, or the
        feed's `max_attempts` have failed.
        """
        with self._scope:
            while True:
                await self._wait_after(await self._pair.run())

    async def _wait_after(self, connection: Connection) -> None:
        """Wait, after the end of *connection*, until the next one may be dialled."""
        outcome, opened_at, lived = connection.outcome, connection.opened_at, 0.0
        if opened_at is not None:
            self._was_connected, lived = True, self._feed.clock.monotonic() - opened_at
        if isinstance(outcome, FeedError) and not self._may_retry(outcome):
            raise outcome
        at_once = outcome == PLANNED and lived >= MIN_LIFE_SECONDS
        await self._reconnects.wait(outcome, lived, at_once=at_once)

    def _may_retry(self, failure: FeedError) -> bool:
        """Return whether another connection may end in another way."""
        if isinstance(failure, ConnectionFailed | ConnectionLost):
            # An endpoint that has worked before is retried even if the error is not retryable.
            return failure.retryable or self._was_connected
        return isinstance(failure, Throttled)

    async def leave(self) -> None:
        """Stop dialling and reading, unsubscribe on open connections, then end `run`."""
        try:
            async with anyio.create_task_group() as tasks:
                for connection in self._pair.connections:
                    tasks.start_soon(connection.leave)
        finally:
            self._scope.cancel()

    def state(self) -> ConnectionState:
        """Return the state of the connection, from any thread."""
        connection, wanted, seconds = self._pair.current, tuple(self.wanted), None
        live: frozenset[Subscription] = frozenset()
        if connection is not None and connection.opened_at is not None and not connection.ended:
            seconds = self._feed.clock.monotonic() - connection.opened_at
            live = frozenset(connection.subscriptions.acknowledged.copy())
        return ConnectionState(self.label, seconds, wanted, live)

    async def report(self, state: str, detail: str, symbol: str = "", channel: str = "") -> None:
        """Emit a Status."""
        now = self._feed.clock.time_ns()
        status = Status(self._feed.venue, symbol, now, now, state, detail, channel)
        await self._emit([self._facts.status(status)])

    # ------------------------------------------------------------------------------- subscriptions

    def _check(self, connection: Connection) -> None:
        """Resubscribe to stalled subscriptions; end a connection where that does not help."""
        pair = self._pair
        if connection is not pair.current or pair.successor is not None or pair.tasks is None:
            return
        reads, connection.intake.reads = connection.intake.reads, 0
        result = self._monitor.check(self.wanted, reads)
        if result.end_reason:
            connection.end(result.end_reason)
        elif result.stalled:
            pair.tasks.start_soon(self._resubscribe_stalled, result.stalled)

    async def _resubscribe_stalled(self, stalled: Sequence[Stalled]) -> None:
        for stall in stalled:
            subscription, detail = stall.subscription, f"{describe([stall])}; resubscribing"
            log.warning("subscription_stalled", feed=self._feed.name, reason=detail)
            await self.report("stalled", detail, subscription.symbol, subscription.channel)
        await self.resubscribe([stall.subscription for stall in stalled])

    def event_rate(self, subscription: Subscription) -> float:
        """Return the events per second of *subscription*, 0.0 if unknown."""
        return self._monitor.event_rate(subscription)

    async def add(self, subscriptions: Sequence[Subscription]) -> None:
        """Add subscriptions: subscribe to them now if connected, else when the next connection opens."""
        known = set(self.wanted)
        new = [added for added in dict.fromkeys(subscriptions) if added not in known]
        self.wanted += new
        for connection in self._pair.connections:
            await connection.add(new)

    async def drop(self, subscriptions: Sequence[Subscription]) -> None:
        """Remove subscriptions, and unsubscribe from them if there is a connection."""
        dropped = set(subscriptions) & set(self.wanted)
        ordered = [subscription for subscription in subscriptions if subscription in dropped]
        self.wanted[:] = [wanted for wanted in self.wanted if wanted not in dropped]
        self._monitor.forget(dropped)
        for connection in self._pair.connections:
            await connection.drop(ordered)

    async def resubscribe(self, subscriptions: Sequence[Subscription]) -> None:
        """Unsubscribe and subscribe again, so that the venue sends a new snapshot."""
        pause = self._monitor.pause_before_resubscribe(subscriptions)
        connection = self._pair.current
        await self._feed.clock.sleep(pause)
        # A new connection subscribes to everything anyway.
        if connection is not None and connection is self._pair.current:
            wanted = connection.subscriptions.still_wanted(subscriptions)
            self._feed.counters["resubscriptions"] += len(wanted)
            await connection.drop(wanted)
            await connection.add(wanted)
