"""Keeps one endpoint connected: reconnects after each end, replaces connections without a gap."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TYPE_CHECKING

import anyio
import structlog

from tapeloom._runtime.backoff import Backoff
from tapeloom.errors import ConnectionFailed, ConnectionLost, FeedError, RetriesExhausted, Throttled
from tapeloom.events import Event, Status
from tapeloom.plugin import Endpoint, Subscription

from .connection import PLANNED, Connection, Supervision
from .frame_intake import FrameIntake
from .handover import Handover
from .stall_detector import Stalled
from .subscription_monitor import SubscriptionMonitor, describe
from .subscriptions import Subscriptions

if TYPE_CHECKING:
    from tapeloom._compose.plan import FeedPlan
    from tapeloom._runtime.rate_limits import RateLimits


log = structlog.get_logger()

#: Sends events through the stages and to the consumers; returns an awaitable to await before more.
Emit = Callable[[list[Event]], Awaitable[None]]

#: A planned end is followed by a new connection at once, except if the connection lasted less than
#: this many seconds: a venue that closes every connection at once must not be dialled in a loop.
_MIN_LIFE_SECONDS = 1.0
#: Seconds in which both connections are read side by side before the old one is closed.
_OVERLAP_SECONDS = 5.0
#: Seconds after the switch in which events are still deduplicated: the new connection may lag.
_DEDUPLICATE_SECONDS = 10.0
#: Minimum seconds between two resubscribes of one subscription.
_RESUBSCRIBE_SECONDS = 5.0


class Supervisor:
    """Keeps one endpoint connected, and holds the subscriptions that it carries."""

    def __init__(
        self,
        plan: FeedPlan,
        endpoint: Endpoint,
        subscriptions: Sequence[Subscription],
        intake: FrameIntake,
        emit: Emit,
        rate_limits: RateLimits,
        *,
        label: str = "",
    ) -> None:
        self.endpoint = endpoint
        self._plan = plan
        self.label = label or endpoint.name or plan.feed.name
        self.wanted: list[Subscription] = list(subscriptions)
        host, rate = endpoint.url, endpoint.host_message_rate
        self._host_limit = rate_limits.limit(host, "message", rate)
        self._feed = plan.feed
        self._clock = plan.feed.clock
        self._counters = plan.feed.counters
        self._intake = intake
        self._emit = emit
        self._rate_limits = rate_limits
        self._dial_limit = rate_limits.limit(host, "dial", endpoint.dial_rate)
        self._backoff = Backoff(plan.feed.random, max_attempts=plan.spec.max_attempts)
        self._monitor = SubscriptionMonitor(plan.gaps, plan.feed.clock, plan.facts)
        self._add_seen, self._watched = plan.gaps.last_seen.add, plan.gaps.watched
        self._resubscribed: dict[Subscription, float] = {}  # when each was last, in seconds
        self._current: Connection | None = None
        self._successor: Connection | None = None
        self._handover: Handover | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._scope = anyio.CancelScope()
        self._was_connected = False
        self._outcome: str | FeedError = ""

    # ----------------------------------------------------------------------------------- lifecycle

    async def run(self) -> None:
        """Stay connected until cancelled or until `leave`.

        Raises FeedError if another attempt is pointless: the venue refuses permanently, or the
        feed's `max_attempts` have failed.
        """
        with self._scope:
            while True:
                connection = await self._connect()
                await self._pause_after(connection)

    async def _pause_after(self, connection: Connection) -> None:
        """Wait, after the end of *connection*, until the next one may be dialled."""
        reason, pause = self._reason_and_pause(self._outcome)
        opened_at = connection.opened_at
        lived = 0.0 if opened_at is None else self._clock.monotonic() - opened_at
        self._backoff.record_lifetime(lived)
        if reason != PLANNED or lived < _MIN_LIFE_SECONDS:
            pause = max(pause, self._backoff.next())
            if self._backoff.exhausted:
                attempts = self._backoff.attempt
                raise RetriesExhausted(self._feed.name, attempts, reason) from self._failure
        await self._pause(reason, pause)

    @property
    def _failure(self) -> FeedError | None:
        return self._outcome if isinstance(self._outcome, FeedError) else None

    def _reason_and_pause(self, outcome: str | FeedError) -> tuple[str, float]:
        """Return why the connection ended, and the pause that the venue demands, in seconds.

        Raises FeedError if another connection would end in the same way.
        """
        if isinstance(outcome, Throttled):
            return str(outcome), outcome.retry_after_seconds or 0.0
        if isinstance(outcome, ConnectionFailed | ConnectionLost):
            # An endpoint that has worked before is retried even if the error is not retryable.
            if not outcome.retryable and not self._was_connected:
                raise outcome
            return str(outcome), 0.0
        if isinstance(outcome, FeedError):
            raise outcome
        return outcome, 0.0

    async def _pause(self, reason: str, seconds: float) -> None:
        self._counters["reconnects"] += 1
        log.warning(
            "feed_reconnecting", feed=self._feed.name, connection=self.label, reason=reason,
            attempt=self._backoff.attempt, delay=round(seconds, 2),
        )  # fmt: skip
        detail = f"{self.label}: {reason.rstrip('.')}; next try in {seconds:.1f} s"
        await self.report("reconnecting", detail)
        await self._clock.sleep(seconds)

    async def _connect(self) -> Connection:
        """Run a connection and its successors until one ends without a successor.

        Returns the last one; how it ended is in `_outcome`.
        """
        first = self._current = self._new_connection()
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._run_connection, first)
        finally:
            last = self._current
            self._end_handover()
            self._tasks = self._current = self._successor = None
        return last

    def _new_connection(self) -> Connection:
        supervision = Supervision(
            self._on_events, self.report, self._monitor.live, self._monitor.refused, self._check,
            self._monitor.reset_deadlines, self._start_replacing,
        )  # fmt: skip
        return Connection(
            self._plan, self.endpoint, self._intake, self.wanted, self.label, self._host_limit,
            supervision,
        )  # fmt: skip

    async def _run_connection(self, connection: Connection) -> None:
        """Run one connection; if it is the current one and has no successor, end `_connect`."""
        outcome: str | FeedError
        if self._dial_limit is not None:
            await self._dial_limit.acquire()
        self._rate_limits.count_connection(self.endpoint.url)
        try:
            outcome = await connection.run()
        except FeedError as error:
            outcome = error
            if isinstance(error, Throttled) and self._dial_limit is not None:
                self._dial_limit.pause(error.retry_after_seconds or 0.0)
        finally:
            self._rate_limits.count_connection(self.endpoint.url, -1)
            self._was_connected = self._was_connected or connection.opened_at is not None
        if connection is not self._current:
            if connection is self._successor:
                log.warning("successor_failed", feed=self._feed.name, reason=str(outcome))
            return
        successor = self._successor
        if successor is not None and successor.opened_at is not None and not successor.ended:
            self._connection_lost(connection, but=successor.subscriptions.acknowledged)
            await self._switch(connection)
            return
        self._connection_lost(connection)
        self._outcome = outcome
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()

    def _connection_lost(self, connection: Connection, but: Collection[Subscription] = ()) -> None:
        """Open gaps for what *connection* carried, *but* for some subscriptions."""
        lost = [subscription for subscription in self.wanted if subscription not in but]
        times = connection.last_recv, connection.last_byte
        self._monitor.connection_lost(lost, *times, replaced=bool(but))

    # ------------------------------------------------------------------------------------ handover

    def _start_replacing(self, connection: Connection) -> bool:
        """Start to replace *connection*; return False if no second one is possible beside it."""
        if connection is not self._current or self._tasks is None:
            return True  # it is being replaced already, or has ended
        if self._handover is None:
            lived = self._clock.monotonic() - (connection.opened_at or 0.0)
            allowed = self.endpoint.max_connections
            has_room = self._rate_limits.has_room(self.endpoint.url, allowed)
            if lived < _MIN_LIFE_SECONDS or not has_room:
                return False
            self._handover = Handover()
            self._record_handover("begun")
            self._tasks.start_soon(self._replace, connection, self._handover)
        return True

    async def _replace(self, old: Connection, handover: Handover) -> None:
        """Open a successor beside *old*, retrying until one is ready, and switch to it."""
        backoff = Backoff(self._feed.random)
        assert self._tasks is not None
        await self.report("replacing", f"{self.label}: a second connection takes over")
        while self._current is old:
            new = self._successor = self._new_connection()
            self._tasks.start_soon(self._run_connection, new)
            await new.ready.wait()
            if not new.ended:
                await self._clock.sleep(_OVERLAP_SECONDS)
            if not new.ended and self._current is old:
                await self._switch(old)
            elif self._current is old:
                handover.clear()
                self._record_handover("cleared")
                await self._clock.sleep(backoff.next())
        await self._clock.sleep(_DEDUPLICATE_SECONDS)
        if self._handover is handover:
            self._end_handover()

    def _end_handover(self) -> None:
        if self._handover is not None:
            self._handover = None
            self._record_handover("over")

    def _record_handover(self, state: str) -> None:
        number = self._current.number if self._current is not None else 0
        self._plan.facts.record(
            self._clock.time_ns(), "handover", label=self.label, state=state, connection=number
        )

    async def _switch(self, old: Connection) -> None:
        """Make the successor the current connection, and end *old*."""
        handover, new = self._handover, self._successor
        assert handover is not None
        assert new is not None
        async with handover.lock:
            self._current, self._successor = new, None
            self._record_handover("switched")
            old.end("replaced")
            self._counters["replacements"] += 1
            await self._process(handover.switch(), new.subscriptions)
        await self.report("replaced", self.label)

    # -------------------------------------------------------------------------------------- events

    def _on_events(self, connection: Connection, events: list[Event]) -> Awaitable[None]:
        """Insert gaps and emit the events of one read (hot path).

        Returns `DONE` if the events are delivered. Otherwise the caller must await the result, which
        delivers the rest when full queues have room, or when the handover's lock is free.
        """
        if self._handover is not None:
            return self._on_events_in_handover(self._handover, connection, events)
        if self._watched or connection.subscriptions.has_pending:
            return self._process(events, connection.subscriptions)
        self._add_seen(events)
        return self._emit(events)

    async def _on_events_in_handover(
        self, handover: Handover, connection: Connection, events: list[Event]
    ) -> None:
        async with handover.lock:
            self._plan.facts.record(
                self._clock.time_ns(), "handover_read", connection=connection.number
            )
            if connection is self._successor:
                handover.buffer(events)
            elif connection is self._current:
                await self._process(handover.accept(events), connection.subscriptions)

    def _process(self, batch: list[Event], subscriptions: Subscriptions) -> Awaitable[None]:
        """Emit a batch that may end gaps or precede the acknowledgement of its subscription."""
        return self._emit(self._monitor.process(batch, subscriptions))

    async def report(self, state: str, detail: str, symbol: str = "", channel: str = "") -> None:
        """Emit a Status."""
        now = self._clock.time_ns()
        status = Status(self._feed.venue, symbol, now, now, state, detail, channel)
        await self._emit([self._plan.facts.status(status)])

    # ------------------------------------------------------------------------------- subscriptions

    def _check(self, connection: Connection) -> None:
        """Resubscribe to stalled subscriptions; end a connection where that does not help."""
        if connection is not self._current or self._successor is not None or self._tasks is None:
            return
        reads, connection.reads = connection.reads, 0
        result = self._monitor.check(self.wanted, reads)
        if result.end_reason:
            connection.end(result.end_reason)
        elif result.stalled:
            self._tasks.start_soon(self._resubscribe_stalled, result.stalled)

    async def _resubscribe_stalled(self, stalled: Sequence[Stalled]) -> None:
        for stall in stalled:
            subscription, detail = stall.subscription, f"{describe([stall])}; resubscribing"
            log.warning("subscription_stalled", feed=self._feed.name, reason=detail)
            await self.report("stalled", detail, subscription.symbol, subscription.channel)
        await self.resubscribe([stall.subscription for stall in stalled])

    def event_rate(self, subscription: Subscription) -> float:
        """Return the events per second of *subscription*, 0.0 if unknown."""
        return self._monitor.event_rate(subscription)

    def _connections(self) -> list[Connection]:
        connections = self._current, self._successor
        return [connection for connection in connections if connection is not None]

    async def add(self, subscriptions: Sequence[Subscription]) -> None:
        """Add subscriptions: subscribe to them now if connected, else when the next connection opens."""
        known = set(self.wanted)
        new = [added for added in dict.fromkeys(subscriptions) if added not in known]
        self.wanted += new
        for connection in self._connections():
            await connection.add(new)

    async def drop(self, subscriptions: Sequence[Subscription]) -> None:
        """Remove subscriptions, and unsubscribe from them if there is a connection."""
        dropped = set(subscriptions) & set(self.wanted)
        ordered = [subscription for subscription in subscriptions if subscription in dropped]
        self.wanted[:] = [wanted for wanted in self.wanted if wanted not in dropped]
        self._monitor.forget(dropped)
        for connection in self._connections():
            await connection.drop(ordered)

    async def leave(self) -> None:
        """Stop dialling and reading, unsubscribe on open connections, then end `run`."""
        try:
            async with anyio.create_task_group() as tasks:
                for connection in self._connections():
                    tasks.start_soon(connection.leave)
        finally:
            self._scope.cancel()

    async def resubscribe(self, subscriptions: Sequence[Subscription]) -> None:
        """Unsubscribe and subscribe again, so that the venue sends a new snapshot."""
        now, last, interval = self._clock.monotonic(), self._resubscribed, _RESUBSCRIBE_SECONDS
        due = max([now, *(last.get(renewed, -interval) + interval for renewed in subscriptions)])
        last.update(dict.fromkeys(subscriptions, due))
        connection = self._current
        await self._clock.sleep(due - now)
        # A new connection subscribes to everything anyway.
        if connection is not None and connection is self._current:
            wanted = connection.subscriptions.still_wanted(subscriptions)
            self._counters["resubscriptions"] += len(wanted)
            await connection.drop(wanted)
            await connection.add(wanted)
