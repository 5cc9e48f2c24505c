"""Runs one feed: starts, stops and drains its connections or source, its history client and its timer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import anyio
import structlog

from tapeloom._compose.plan import FeedPlan, too_many_connections
from tapeloom._connection.frame_intake import FeedIntake
from tapeloom._connection.source_supervisor import SourceSupervisor
from tapeloom._connection.supervisor import Supervisor
from tapeloom._history.listing_check import check_symbols
from tapeloom._history.query_queue import HistoryClient
from tapeloom._history.rest_client import RestClient
from tapeloom._runtime.event_loop import DONE, running_backend
from tapeloom._runtime.rate_limits import RateLimits
from tapeloom._runtime.taps import FrameTap
from tapeloom._tape.replay import Recording
from tapeloom.errors import (
    BackendUnsupported,
    FeedError,
    StageFailed,
    SymbolError,
    TapeloomError,
    unwrap_single,
)
from tapeloom.events import Event, Status
from tapeloom.plugin import Endpoint, Subscription, WallDeadline
from tapeloom.symbols import resolve

from .feed_monitor import FeedMonitor
from .feed_replay import FeedReplay
from .pipeline import Pipeline

if TYPE_CHECKING:
    import httpx


log = structlog.get_logger()

#: Seconds between two checks of whether a timed stage is due.
TICK_SECONDS = 0.1
#: Seconds that unsubscribing may take at the end: closing the connection ends the other subscriptions.
_UNSUBSCRIBE_SECONDS = 2.0

Deliver = Callable[[list[Event]], Awaitable[None]]


class FeedRunner:
    """Runs one feed: its connections or source, its history client and its timer."""

    def __init__(
        self,
        plan: FeedPlan,
        deliver: Deliver,
        client: httpx.AsyncClient,
        rate_limits: RateLimits,
        taps: Sequence[FrameTap] = (),
        read_semaphore: anyio.Semaphore | None = None,
        recording: Recording | None = None,
    ) -> None:
        self.plan = plan
        self.pipeline = Pipeline(plan.feed, plan.steps)
        self.intake = FeedIntake(plan, taps, read_semaphore)
        plan.facts.taps = self.intake.taps
        self.supervisors: list[Supervisor] = []
        self.error: Exception | None = None
        self.ended_at = 0  #: in ns
        self._deliver = deliver
        self._rate_limits = rate_limits
        self._rest = RestClient(plan, client, rate_limits, self.intake.taps)
        self._history_client = HistoryClient(
            plan, self._rest, self.emit, resubscribe=self._resubscribe, event_rate=self._event_rate
        )
        self._recording = recording
        self._source: SourceSupervisor | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._stopped = anyio.Event()

    async def run(self) -> None:
        """Run until stopped, until the source ends, or until no connection is left.

        A TapeloomError that ends the feed is stored in `error`; only other exceptions are raised.
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
                replay = FeedReplay(
                    self._recording, self.plan, self.intake, self.pipeline, self._deliver,
                    self._history_client,
                )  # fmt: skip
                await self._until_stopped(replay.run)
            elif self.plan.source is not None:
                await self._run_source()
            else:
                await self._run_connections()
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
        """Process events with the stages and deliver them to the queues (hot path).

        Return an awaitable that waits for the queues that are full.
        """
        events = self.pipeline(events)
        return self._deliver(events) if events else DONE

    def stop(self) -> None:
        """Stop reading; events already read are still delivered."""
        self._stopped.set()

    async def _flush(self) -> None:
        """Deliver the gaps that remain open, and the events that the stages still hold."""
        self.ended_at = self.plan.feed.clock.time_ns()
        self.plan.facts.record(self.ended_at, "ended")
        gaps = self.plan.gaps.close_all(self.ended_at)
        try:
            events = self.pipeline(gaps) if gaps else []
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
        await self._check_symbols()
        history = self._history_client
        self._source = SourceSupervisor(self.plan, self.emit)
        await self._until_stopped(self._source.run, self._timer, self._watch, history.run)

    async def _check_symbols(self) -> None:
        """Remove the symbols that the venue has no data of, and report them."""
        if refused := await check_symbols(self._rest, self.plan):
            await self.emit([*refused])

    async def _until_stopped(
        self, run: Callable[[], Awaitable[None]], *others: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """Run *run* to its end, or until stopped, with *others* beside it."""
        async with anyio.create_task_group() as tasks:
            for other in others:
                tasks.start_soon(other)
            tasks.start_soon(self._cancel_when_stopped, tasks.cancel_scope)
            await run()
            tasks.cancel_scope.cancel()

    async def _run_connections(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._cancel_when_stopped, tasks.cancel_scope)
            await self._check_symbols()
            self._tasks = tasks
            tasks.start_soon(self._history_client.run)
            tasks.start_soon(self._timer)
            tasks.start_soon(self._watch)
            for endpoint, subscriptions in self.plan.connections(self.plan.feed.symbols):
                self._connect(endpoint, subscriptions)

    def _connect(self, endpoint: Endpoint, subscriptions: Sequence[Subscription]) -> None:
        assert self._tasks is not None
        label = f"{endpoint.name or self.plan.feed.name}#{len(self.supervisors) + 1}"
        supervisor = Supervisor(
            self.plan,
            endpoint,
            subscriptions,
            self.intake,
            self.emit,
            self._rate_limits,
            label=label,
        )
        self.supervisors.append(supervisor)
        self._tasks.start_soon(self._supervise, supervisor)

    def _resubscribe(self, subscription: Subscription) -> bool:
        """Start to subscribe again; return False if no connection has the subscription."""
        for supervisor in self.supervisors:
            if subscription in supervisor.wanted and self._tasks is not None:
                self._tasks.start_soon(supervisor.resubscribe, [subscription])
                return True
        return False

    def _event_rate(self, subscription: Subscription) -> float:
        """Return the events per second of a subscription, 0.0 if unknown."""
        rates = [supervisor.event_rate(subscription) for supervisor in self.supervisors]
        return max(rates, default=0.0)

    async def _supervise(self, supervisor: Supervisor) -> None:
        """Run a connection; end the feed when the last one is abandoned."""
        assert self._tasks is not None
        try:
            await supervisor.run()
        except StageFailed as error:
            self.error = error
            self._tasks.cancel_scope.cancel()
        except FeedError as error:
            self.supervisors.remove(supervisor)
            log.error("connection_abandoned", connection=supervisor.label, reason=str(error))
            if not self.supervisors:
                self.error = error
                self._tasks.cancel_scope.cancel()
                return
            await self._report_abandoned(supervisor, str(error))

    async def _report_abandoned(self, supervisor: Supervisor, reason: str) -> None:
        """Emit a Status for each subscription of a connection that has ended for good."""
        venue, now = self.plan.feed.venue, self.plan.feed.clock.time_ns()
        statuses: list[Event] = [
            self.plan.facts.status(
                Status(venue, lost.symbol, now, now, "abandoned", reason, lost.channel)
            )
            for lost in supervisor.wanted
        ]
        await self.emit(statuses)

    async def _cancel_when_stopped(self, scope: anyio.CancelScope) -> None:
        await self._stopped.wait()
        await self._unsubscribe()
        scope.cancel()

    async def _unsubscribe(self) -> None:
        """Unsubscribe on all connections within the venue's rate limits, until the deadline."""

        async def unsubscribe_all() -> None:
            async with anyio.create_task_group() as tasks:
                for supervisor in self.supervisors:
                    tasks.start_soon(supervisor.leave)
            deadline.cancel_scope.cancel()

        async with anyio.create_task_group() as deadline:
            deadline.start_soon(unsubscribe_all)
            await self.plan.feed.clock.sleep(_UNSUBSCRIBE_SECONDS)
            deadline.cancel_scope.cancel()

    async def _timer(self) -> None:
        """Run timed stages when they are due, and deliver their events."""
        clock, pipeline, facts = self.plan.feed.clock, self.pipeline, self.plan.facts
        deadline = WallDeadline(clock)
        while pipeline.timed:
            await clock.sleep(TICK_SECONDS)
            now = deadline.reached(pipeline.due)
            if now is not None:
                facts.record(clock.time_ns(), "tick", now=now)
                if events := pipeline.tick(now):
                    await self._deliver(events)

    async def _watch(self) -> None:
        """Check the gaps and the clocks once a second, and emit what is to be reported."""
        monitor = FeedMonitor(self.plan)
        while True:
            await self.plan.feed.clock.sleep(monitor.pause_seconds())
            if events := monitor.check():
                await self.emit(events)

    # ----------------------------------------------------------------------------- while it runs

    async def add(self, symbols: Sequence[str]) -> None:
        """Subscribe to more symbols.

        Raises SymbolError for a symbol that is invalid or not listed, ConfigError if the venue does
        not allow enough connections.
        """
        plan, feed = self.plan, self.plan.feed
        new = [name for name in dict.fromkeys(map(resolve, symbols)) if name not in feed.symbols]
        for symbol in new:
            if problem := feed.listing.problem(symbol):
                raise SymbolError(f"{feed.venue} {problem}")
        plan.subscriptions(new)  # raises before anything has changed
        self._check_room(new)
        plan.add_symbols(new)
        feed.symbols += new
        plan.record_symbols()
        if plan.source is not None:
            plan.source.symbols_changed()
        if self._tasks is None:
            return  # `_run_connections` has yet to start, and subscribes to them
        for index, subscriptions in plan.subscriptions(new).items():
            await self._distribute(plan.endpoints[index], subscriptions)

    def _check_room(self, symbols: Sequence[str]) -> None:
        """Raise ConfigError if the venue does not allow enough connections for *symbols*."""
        for index, subscriptions in self.plan.subscriptions(symbols).items():
            endpoint = self.plan.endpoints[index]
            if endpoint.max_connections is not None and self._tasks is not None:
                supervisors = [s for s in self.supervisors if s.endpoint == endpoint]
                loads = [len(supervisor.wanted) for supervisor in supervisors]
                connections = max(endpoint.max_connections, len(loads))
                room = connections * endpoint.max_subscriptions - sum(loads)
                if len(subscriptions) > room:
                    raise too_many_connections(self.plan.feed.venue, endpoint)

    async def _distribute(self, endpoint: Endpoint, subscriptions: list[Subscription]) -> None:
        """Add subscriptions to the connections that have room, and open new ones for the rest."""
        for supervisor in self.supervisors:
            room = endpoint.max_subscriptions - len(supervisor.wanted)
            if supervisor.endpoint == endpoint and room > 0 and subscriptions:
                await supervisor.add(subscriptions[:room])
                subscriptions = subscriptions[room:]
        while subscriptions:
            self._connect(endpoint, subscriptions[: endpoint.max_subscriptions])
            subscriptions = subscriptions[endpoint.max_subscriptions :]

    async def drop(self, symbols: Sequence[str]) -> None:
        """Unsubscribe from symbols."""
        removed = {resolve(symbol) for symbol in symbols}
        feed = self.plan.feed
        feed.symbols[:] = [symbol for symbol in feed.symbols if symbol not in removed]
        self.plan.record_symbols()
        for supervisor in self.supervisors:
            await supervisor.drop([sub for sub in supervisor.wanted if sub.symbol in removed])
        if self._source is not None:
            self._source.forget(removed)
        if self.plan.source is not None:
            self.plan.source.symbols_changed()
        for symbol in removed:
            feed.listing.remove(symbol)
        self.plan.record_symbols(unlisted=removed)
