"""The task tree: feeds and their connections; starting, stopping, draining."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import anyio
import structlog

from tapeloom._compose.plan import FeedPlan, too_many
from tapeloom._connection.frame_intake import FrameIntake
from tapeloom._connection.source_supervisor import SourceSupervisor
from tapeloom._connection.supervisor import Supervisor
from tapeloom._history.listing_check import check_symbols
from tapeloom._history.query_queue import HistoryClient
from tapeloom._history.rest_client import RestClient
from tapeloom._runtime.event_loop import DONE, running_backend
from tapeloom._runtime.rate_limits import RateLimits
from tapeloom._runtime.taps import FrameTap
from tapeloom._tape.replay import Recording, Replay
from tapeloom.errors import (
    BackendUnsupported,
    FeedError,
    StageFailed,
    SymbolError,
    TapeloomError,
    nearest,
    unwrap_single,
)
from tapeloom.events import Event, Status
from tapeloom.plugin import Endpoint, Subscription, WallDeadline
from tapeloom.symbols import resolve

from .pipeline import Pipeline

if TYPE_CHECKING:
    import httpx


log = structlog.get_logger()

#: How often stages that act on time are asked whether they want to, in seconds.
TICK = 0.1
#: How long unsubscribing may take at the end; a venue ends with the connection what is left.
_LEAVE_WITHIN = 2.0

Deliver = Callable[[list[Event]], Awaitable[None]]


class FeedRunner:
    """One feed in operation: its connections, its history, its timer."""

    def __init__(
        self,
        plan: FeedPlan,
        deliver: Deliver,
        client: httpx.AsyncClient,
        budgets: RateLimits,
        taps: Sequence[FrameTap] = (),
        read_turns: anyio.Semaphore | None = None,
        recording: Recording | None = None,
    ) -> None:
        self.plan = plan
        self.pipeline = Pipeline(plan.feed, plan.steps)
        self.intake = FrameIntake(plan, taps, read_turns)
        self.sessions: list[Supervisor] = []
        self.error: Exception | None = None
        self._deliver = deliver
        self._budgets = budgets
        self._rest = RestClient(plan, client, budgets, self.intake.taps)
        self._desk = HistoryClient(
            plan, self._rest, self.emit, renew=self._renew, activity=self._activity
        )
        self._recording = recording
        self._source: SourceSupervisor | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._stopped = anyio.Event()

    async def run(self) -> None:
        """Run until stopped, until the source has no more, or until nothing can go on.

        What went wrong is in `error`; only programming errors are raised.
        """
        if self._stopped.is_set():
            return
        try:
            async with anyio.create_task_group() as tasks:
                for tap in self.intake.taps:
                    tasks.start_soon(tap.run)
                await self._run()
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise unwrap_single(group) from None

    async def _run(self) -> None:
        feed = self.plan.feed
        try:
            self._check_backend()
            if self._recording is not None:
                self.plan.wants.listen(lambda want: None)  # a tape has what was answered then
                await self._until_stopped(self._replay(self._recording).run)
            elif self.plan.source is not None:
                await self._run_source()
            else:
                await self._run_sessions()
        except TapeloomError as error:
            self.error = error
        except BaseExceptionGroup as group:
            single = unwrap_single(group)
            if not isinstance(single, TapeloomError):
                raise single from None
            self.error = single
        if self.error is not None:
            log.error("feed_failed", feed=feed.name, reason=str(self.error))
        await self._flush()

    def emit(self, events: list[Event]) -> Awaitable[None]:
        """Send events through the stages and to the consumers: the hot path, and its only way out.

        It is done at once, but for what the awaitable that it returns still waits for.
        """
        events = self.pipeline(events)
        return self._deliver(events) if events else DONE

    def _replay(self, recording: Recording) -> Replay:
        plan = self.plan
        return Replay(
            recording,
            plan.feed,
            self.intake.parse,
            self.intake.unreadable,
            self.pipeline,
            self._deliver,
            codec=plan.codec,
            history=plan.history,
        )

    def stop(self) -> None:
        """Read no more; what has been read is still delivered."""
        self._stopped.set()

    async def _flush(self) -> None:
        """Deliver what is left to be told: holes that nobody will fill any more, and what stages hold."""
        sessions = [*self.sessions, *([self._source] if self._source is not None else ())]
        holes = [gap for session in sessions for gap in session.holes()]
        try:
            events = self.pipeline(holes) if holes else []
            events += self.pipeline.flush()
        except TapeloomError as error:
            self.error = self.error or error
            return
        if events:
            await self._deliver(events)

    def _check_backend(self) -> None:
        source = self.plan.source
        running = running_backend()
        if source is not None and running not in source.backends:
            raise BackendUnsupported(self.plan.feed.venue, running, source.backends)

    async def _run_source(self) -> None:
        await check_symbols(self._rest, self.plan)
        session = self._source = SourceSupervisor(self.plan, self.emit, self._desk.missed)
        await self._until_stopped(session.run, self._timer, self._desk.run)

    async def _until_stopped(
        self, run: Callable[[], Awaitable[None]], *others: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        async with anyio.create_task_group() as tasks:
            for other in others:
                tasks.start_soon(other)
            tasks.start_soon(self._cancel_when_stopped, tasks.cancel_scope)
            await run()
            tasks.cancel_scope.cancel()

    async def _run_sessions(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._cancel_when_stopped, tasks.cancel_scope)
            await check_symbols(self._rest, self.plan)
            self._tasks = tasks
            tasks.start_soon(self._desk.run)
            tasks.start_soon(self._timer)
            for endpoint, subscriptions in self.plan.connections(self.plan.feed.symbols):
                self._connect(endpoint, subscriptions)

    def _connect(self, endpoint: Endpoint, subscriptions: Sequence[Subscription]) -> None:
        assert self._tasks is not None
        label = f"{endpoint.name or self.plan.feed.name}#{len(self.sessions) + 1}"
        session = Supervisor(
            self.plan,
            endpoint,
            subscriptions,
            self.intake,
            self.emit,
            self._budgets,
            label=label,
            missed=self._desk.missed,
        )
        self.sessions.append(session)
        self._tasks.start_soon(self._keep, session)

    def _renew(self, one: Subscription) -> bool:
        """Subscribe to *one* anew; return False where no connection has it."""
        for session in self.sessions:
            if one in session.wanted and self._tasks is not None:
                self._tasks.start_soon(session.renew, [one])
                return True
        return False

    def _activity(self, one: Subscription) -> float:
        return max((session.activity(one) for session in self.sessions), default=0.0)

    async def _keep(self, session: Supervisor) -> None:
        """Run a connection; when the last one has given up, so has the feed."""
        assert self._tasks is not None
        try:
            await session.run()
        except StageFailed as error:
            self.error = error
            self._tasks.cancel_scope.cancel()
        except FeedError as error:
            self.sessions.remove(session)
            log.error("connection_abandoned", connection=session.label, reason=str(error))
            if not self.sessions:
                self.error = error
                self._tasks.cancel_scope.cancel()
                return
            await self._tell_given_up(session, str(error))

    async def _tell_given_up(self, session: Supervisor, reason: str) -> None:
        """Tell of each subscription that ends, while those on other connections go on."""
        venue, now = self.plan.feed.venue, self.plan.feed.clock.time_ns()
        told: list[Event] = [
            Status(venue, one.symbol, now, now, "abandoned", reason, one.channel)
            for one in session.wanted
        ]
        await self.emit(told)

    async def _cancel_when_stopped(self, scope: anyio.CancelScope) -> None:
        await self._stopped.wait()
        await self._leave()
        scope.cancel()

    async def _leave(self) -> None:
        """Take leave of the venue, at its pace, for as long as that may take."""

        async def leave() -> None:
            async with anyio.create_task_group() as tasks:
                for session in self.sessions:
                    tasks.start_soon(session.leave)
            waiting.cancel_scope.cancel()

        async with anyio.create_task_group() as waiting:
            waiting.start_soon(leave)
            await self.plan.feed.clock.sleep(_LEAVE_WITHIN)
            waiting.cancel_scope.cancel()

    async def _timer(self) -> None:
        """Let stages act when nothing comes."""
        clock, pipeline = self.plan.feed.clock, self.pipeline
        alarm = WallDeadline(clock)
        while pipeline.timed:
            await clock.sleep(TICK)
            now = alarm.reached(pipeline.due)
            if now is not None and (events := pipeline.tick(now)):
                await self._deliver(events)

    # ----------------------------------------------------------------------------- while it runs

    async def add(self, symbols: Sequence[str]) -> None:
        """Stream more symbols.

        Raises SymbolError for one that the venue cannot have or does not list.
        """
        plan, feed = self.plan, self.plan.feed
        new = [one for one in dict.fromkeys(map(resolve, symbols)) if one not in feed.symbols]
        known = feed.listing.instruments
        for symbol in new:
            if known and symbol not in known:
                raise SymbolError(f"{feed.venue} does not list {symbol!r}.{nearest(symbol, known)}")
        plan.subscriptions(new)  # raises before anything has changed
        self._check_room(new)
        plan.name(new)
        feed.symbols += new
        if plan.source is not None:
            plan.source.symbols_changed()
        if self._tasks is None:
            return  # the connections that are about to be made include them
        for place, subscriptions in plan.subscriptions(new).items():
            await self._spread(plan.endpoints[place], subscriptions)

    def _check_room(self, symbols: Sequence[str]) -> None:
        """Raise ConfigError where the venue allows no connection for what these need."""
        for place, subscriptions in self.plan.subscriptions(symbols).items():
            endpoint = self.plan.endpoints[place]
            if endpoint.max_connections is not None and self._tasks is not None:
                carried = [len(each.wanted) for each in self.sessions if each.endpoint == endpoint]
                more = max(endpoint.max_connections - len(carried), 0)
                room = (len(carried) + more) * endpoint.max_subscriptions - sum(carried)
                if len(subscriptions) > room:
                    raise too_many(self.plan.feed.venue, endpoint)

    async def _spread(self, endpoint: Endpoint, subscriptions: list[Subscription]) -> None:
        """Put subscriptions on the connections that have room, and on new ones."""
        for session in self.sessions:
            room = endpoint.max_subscriptions - len(session.wanted)
            if session.endpoint == endpoint and room > 0 and subscriptions:
                await session.add(subscriptions[:room])
                subscriptions = subscriptions[room:]
        while subscriptions:
            self._connect(endpoint, subscriptions[: endpoint.max_subscriptions])
            subscriptions = subscriptions[endpoint.max_subscriptions :]

    async def drop(self, symbols: Sequence[str]) -> None:
        """Stream these symbols no more."""
        gone = {resolve(symbol) for symbol in symbols}
        feed = self.plan.feed
        feed.symbols[:] = [symbol for symbol in feed.symbols if symbol not in gone]
        for session in self.sessions:
            wanted = session.wanted
            await session.drop([one for one in wanted if one.symbol in gone])
        if self._source is not None:
            self._source.forget(gone)
        if self.plan.source is not None:
            self.plan.source.symbols_changed()
        for symbol in gone:
            feed.listing.remove(symbol)
