"""The session itself: one connection after another, and as few holes between them as can be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TYPE_CHECKING

import anyio
import structlog

from tapeloom._gaps.gap_tracker import Missed
from tapeloom._runtime.backoff import Backoff
from tapeloom.errors import ConnectionFailed, ConnectionLost, FeedError, RetriesExhausted, Throttled
from tapeloom.events import Event, Status
from tapeloom.plugin import Endpoint, Subscription

from .clock_monitor import ClockAlert
from .connection import PLANNED, Connection, Supervision
from .frame_intake import FrameIntake
from .handover import Handover
from .stall_detector import Stalled
from .subscription_monitor import SubscriptionMonitor, silent
from .subscriptions import Subscriptions

if TYPE_CHECKING:
    from tapeloom._compose.plan import FeedPlan
    from tapeloom._runtime.rate_limits import RateLimits


log = structlog.get_logger()

#: Sends events through the stages and to the consumers; returns what is to be waited for.
Emit = Callable[[list[Event]], Awaitable[None]]


class Supervisor:
    """One endpoint, and the subscriptions that go over its connection."""

    def __init__(
        self,
        plan: FeedPlan,
        endpoint: Endpoint,
        subscriptions: Sequence[Subscription],
        intake: FrameIntake,
        emit: Emit,
        budgets: RateLimits,
        *,
        label: str = "",
        missed: Missed | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._plan = plan
        self.label = label or endpoint.name or plan.feed.name
        self.wanted: list[Subscription] = list(subscriptions)
        self._messages = budgets.of(endpoint.url, "message", endpoint.host_message_rate)
        self._feed = plan.feed
        self._clock = plan.feed.clock
        self._counters = plan.feed.counters
        self._intake = intake
        self._emit = emit
        self._budgets = budgets
        self._dials = budgets.of(endpoint.url, "dial", endpoint.dial_rate)
        self._backoff = Backoff(plan.feed.random, most=plan.spec.max_attempts)
        self._watch = SubscriptionMonitor(plan.feed, missed)
        self._note, self._missing = self._watch.memory.note, self._watch.holes.open
        self._renewed: dict[Subscription, float] = {}  # when each was last subscribed anew
        self._current: Connection | None = None
        self._successor: Connection | None = None
        self._overlap: Handover | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._scope = anyio.CancelScope()
        self._worked = False  # a connection has been open
        self._outcome: str | FeedError = ""

    # ------------------------------------------------------------------------------------ the life

    async def run(self) -> None:
        """Keep a connection until cancelled, or left.

        Raises FeedError where going on is pointless: the venue refuses for good, or the feed's
        `max_attempts` have all failed.
        """
        with self._scope:
            while True:
                connection = await self._chain()
                await self._pause(connection)

    async def _pause(self, connection: Connection) -> None:
        """Wait, after the end of *connection*, until it is time for the next one."""
        reason, pause = self._verdict(self._outcome)
        opened = connection.opened
        lived = 0.0 if opened is None else self._clock.monotonic() - opened
        self._backoff.lived(lived)
        if reason != PLANNED or lived < _SETTLED:
            pause = max(pause, self._backoff.next())
            if self._backoff.spent:
                raise RetriesExhausted(
                    self._feed.name, self._backoff.attempt, reason
                ) from self._failure
        await self._again(reason, pause)

    @property
    def _failure(self) -> FeedError | None:
        return self._outcome if isinstance(self._outcome, FeedError) else None

    def _verdict(self, outcome: str | FeedError) -> tuple[str, float]:
        """Return why the connection ended, and the pause that the venue wants.

        Raises FeedError where another one would end in the same way.
        """
        if isinstance(outcome, Throttled):
            return str(outcome), outcome.retry_after_seconds or 0.0
        if isinstance(outcome, ConnectionFailed | ConnectionLost):
            # What has worked before is worth another try, whatever it says now.
            if not outcome.retryable and not self._worked:
                raise outcome
            return str(outcome), 0.0
        if isinstance(outcome, FeedError):
            raise outcome
        return outcome, 0.0

    async def _again(self, reason: str, pause: float) -> None:
        self._counters["reconnects"] += 1
        log.warning(
            "feed_reconnecting",
            feed=self._feed.name,
            connection=self.label,
            reason=reason,
            attempt=self._backoff.attempt,
            delay=round(pause, 2),
        )
        detail = f"{self.label}: {reason.rstrip('.')}; next try in {pause:.1f} s"
        await self.tell("reconnecting", detail)
        await self._clock.sleep(pause)

    async def _chain(self) -> Connection:
        """Live on one connection, and on its successors, until one ends that has none.

        Returns the last one; how it ended is in `_outcome`.
        """
        first = self._current = self._connection()
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._live, first)
        finally:
            last = self._current
            self._tasks = self._current = self._successor = self._overlap = None
        return last

    def _connection(self) -> Connection:
        return Connection(
            self._plan,
            self.endpoint,
            self._intake,
            self.wanted,
            self.label,
            self._messages,
            Supervision(
                self._take,
                self.tell,
                self._live_now,
                self._refused,
                self._look,
                self._reset_deadlines,
                self._retire,
            ),
        )

    async def _live(self, connection: Connection) -> None:
        """Live one connection; the chain ends when its current one has ended without a successor."""
        outcome: str | FeedError
        if self._dials is not None:
            await self._dials.take()
        self._budgets.opened(self.endpoint.url)
        try:
            outcome = await connection.live()
        except FeedError as error:
            outcome = error
            if isinstance(error, Throttled) and self._dials is not None:
                self._dials.pause(error.retry_after_seconds or 0.0)
        finally:
            self._budgets.opened(self.endpoint.url, -1)
            self._worked = self._worked or connection.opened is not None
        if connection is not self._current:
            if connection is self._successor:
                log.warning("successor_failed", feed=self._feed.name, reason=str(outcome))
            return
        successor = self._successor
        if successor is not None and successor.opened is not None and not successor.ended:
            self._lost(connection, but=successor.subscriptions.acknowledged)
            await self._switch(connection)
            return
        self._lost(connection)
        self._outcome = outcome
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()

    def _lost(self, connection: Connection, but: Collection[Subscription] = ()) -> None:
        """Open the holes that the end of a connection leaves."""
        self._watch.lost(connection.last_recv, connection.heard, but)

    # --------------------------------------------------------------------------------- the hand-over

    def _retire(self, connection: Connection) -> bool:
        """Begin to replace it; return False where nothing can take its place before it has ended."""
        if connection is not self._current or self._tasks is None:
            return True  # it is being replaced, or is no longer needed
        if self._overlap is None:
            lived = self._clock.monotonic() - (connection.opened or 0.0)
            room = self._budgets.room(self.endpoint.url, self.endpoint.max_connections)
            if lived < _SETTLED or not room:
                return False
            self._overlap = Handover()
            self._tasks.start_soon(self._replace, connection, self._overlap)
        return True

    async def _replace(self, old: Connection, overlap: Handover) -> None:
        """Bring up a successor beside *old*, as often as it takes, and let it take over."""
        backoff = Backoff(self._feed.random)
        assert self._tasks is not None
        await self.tell("replacing", f"{self.label}: a second connection takes over")
        while self._current is old:
            new = self._successor = self._connection()
            self._tasks.start_soon(self._live, new)
            await new.ready.wait()
            if not new.ended:
                await self._clock.sleep(_OVERLAP)
            if not new.ended and self._current is old:
                await self._switch(old)
            elif self._current is old:
                overlap.forget()
                await self._clock.sleep(backoff.next())
        await self._clock.sleep(_LAG)
        if self._overlap is overlap:
            self._overlap = None

    async def _switch(self, old: Connection) -> None:
        """Let the successor go on where *old* ends."""
        overlap, new = self._overlap, self._successor
        assert overlap is not None
        assert new is not None
        async with overlap.turn:
            self._current, self._successor = new, None
            old.end("replaced")
            self._counters["replacements"] += 1
            await self._hand_on(overlap.release(), new.subscriptions)
        await self.tell("replaced", self.label)

    # ------------------------------------------------------------------------------------- the data

    def _take(self, connection: Connection, events: list[Event]) -> Awaitable[None]:
        """Take what a read has brought: announce, stage, deliver. The hot path.

        It is done at once, but for what the awaitable that it returns still waits for.
        """
        if self._overlap is not None:
            return self._take_turn(self._overlap, connection, events)
        if self._missing or connection.subscriptions.waiting:
            return self._hand_on(events, connection.subscriptions)
        self._note(events)
        return self._emit(events)

    async def _take_turn(
        self, overlap: Handover, connection: Connection, events: list[Event]
    ) -> None:
        async with overlap.turn:
            if connection is self._successor:
                overlap.hold(events)
            elif connection is self._current:
                await self._hand_on(overlap.passed(events), connection.subscriptions)

    def _hand_on(self, came: list[Event], subscriptions: Subscriptions) -> Awaitable[None]:
        """Take what came while some subscription is not known to be live, or has been lost."""
        return self._emit(self._watch.take(came, subscriptions))

    async def tell(self, state: str, detail: str, symbol: str = "", channel: str = "") -> None:
        """Put a Status into the stream."""
        now = self._clock.time_ns()
        await self._put([Status(self._feed.venue, symbol, now, now, state, detail, channel)])

    async def _put(self, events: list[Event]) -> None:
        await self._emit(events)

    def holes(self) -> list[Event]:
        """Return a Gap for each hole that is open as all ends."""
        return self._watch.holes.end(self._clock.time_ns())

    # ------------------------------------------------------------------------------- subscriptions

    def _live_now(self, some: Sequence[Subscription], said: int | None) -> None:
        """Take note that these are live; *said*: when the venue's own word of it came."""
        self._watch.live(some, said)

    def _refused(self, some: Sequence[Subscription], said: int) -> None:
        """Take note that the venue does not give us these, by its word of then."""
        self._watch.refused(some, said)

    def _reset_deadlines(self) -> None:
        """Hold no silence against the venue: it was we who did not listen."""
        self._watch.excuse()

    def _look(self, connection: Connection) -> None:
        """Subscribe anew to what has fallen silent; give up a connection where that does not help."""
        self._watch.look_at_clock()
        if connection is not self._current or self._successor is not None or self._tasks is None:
            return
        seen = self._watch.look()
        if seen.gaps:
            self._tasks.start_soon(self._put, seen.gaps)
        if seen.findings:
            self._tasks.start_soon(self._tell_all, seen.findings)
        if seen.end:
            connection.end(seen.end)
        elif seen.mute:
            self._tasks.start_soon(self._wake, seen.mute)

    async def _wake(self, mute: Sequence[Stalled]) -> None:
        for each in mute:
            one, detail = each.subscription, f"{silent([each])}; subscribing anew"
            log.warning("subscription_stalled", feed=self._feed.name, reason=detail)
            await self.tell("stalled", detail, one.symbol, one.channel)
        await self.renew([each.subscription for each in mute])

    async def _tell_all(self, found: Sequence[ClockAlert]) -> None:
        for one in found:
            log.warning("venue_clock", feed=self._feed.name, state=one.state, reason=one.detail)
            await self.tell(one.state, one.detail, one.symbol, one.channel)

    def activity(self, one: Subscription) -> float:
        """Return how often *one* speaks in a second, as far as is known."""
        return self._watch.activity(one)

    def _connections(self) -> list[Connection]:
        return [each for each in (self._current, self._successor) if each is not None]

    async def add(self, subscriptions: Sequence[Subscription]) -> None:
        """Subscribe to more, now or, between two connections, with the next one."""
        known = set(self.wanted)
        new = [one for one in dict.fromkeys(subscriptions) if one not in known]
        self.wanted += new
        for connection in self._connections():
            await connection.add(new)

    async def drop(self, subscriptions: Sequence[Subscription]) -> None:
        """End subscriptions, and forget them."""
        gone = set(subscriptions) & set(self.wanted)
        ordered = [one for one in subscriptions if one in gone]
        self.wanted[:] = [one for one in self.wanted if one not in gone]
        self._watch.forget(gone)
        for connection in self._connections():
            await connection.drop(ordered)

    async def leave(self) -> None:
        """Dial and read no more, end the subscriptions of what is open, and then the session."""
        try:
            async with anyio.create_task_group() as tasks:
                for connection in self._connections():
                    tasks.start_soon(connection.leave)
        finally:
            self._scope.cancel()

    async def renew(self, some: Sequence[Subscription]) -> None:
        """Subscribe anew, so that the venue begins again with the whole."""
        now = self._clock.monotonic()
        turn = max([now, *(self._renewed.get(one, -_RENEWALS) + _RENEWALS for one in some)])
        self._renewed.update(dict.fromkeys(some, turn))
        connection = self._current
        await self._clock.sleep(turn - now)
        # The connection that is about to be made begins with the whole anyway.
        if connection is not None and connection is self._current:
            some = connection.subscriptions.still(some)
            self._counters["resubscriptions"] += len(some)
            await connection.drop(some)
            await connection.add(some)


#: A planned end is followed by a new connection at once, except after a life of less than so many
#: seconds: a venue that sends everybody away is left alone.
_SETTLED = 1.0
#: For so many seconds, two connections bring the same before one is closed,
_OVERLAP = 5.0
#: and so many seconds after, what the other one brings late is still told from what is new.
_LAG = 10.0
#: A subscription is renewed every so many seconds at the most.
_RENEWALS = 5.0
