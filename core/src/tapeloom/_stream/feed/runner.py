"""Starts, stops and drains one feed: its connections or source, its history client and its timer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anyio
import structlog

from tapeloom._compose.plan import FeedPlan
from tapeloom._connection.frame_intake import FeedIntake
from tapeloom._connection.source_supervisor import SourceSupervisor
from tapeloom._history.listing_check import check_symbols
from tapeloom._history.query_queue import HistoryClient
from tapeloom._history.rest_client import RestClient
from tapeloom._runtime.event_loop import DONE, running_backend
from tapeloom._runtime.rate_limits import RateLimits
from tapeloom._runtime.taps import FrameTap
from tapeloom._stream.pipeline import Pipeline
from tapeloom._stream.sinks.positions import Position, positions_of, resume
from tapeloom._tape.replay import Recording
from tapeloom.errors import BackendUnsupported, SymbolError, TapeloomError, unwrap_single
from tapeloom.events import Event
from tapeloom.plugin import Cursor, FeedState, Subscription, WallDeadline
from tapeloom.plugin.sinks import NO_POSITIONS
from tapeloom.symbols import resolve

from .connections import Connections
from .monitor import FeedMonitor

if TYPE_CHECKING:
    import httpx

    from tapeloom._stream.relay.pipeline import RelayPipeline


log = structlog.get_logger()

#: Seconds between two checks of whether a timed stage is due.
TICK_SECONDS = 0.1
#: Seconds between two looks at whether gaps are filled.
_POLL_SECONDS = 0.02

#: Delivers events to the queues, those of a relay with the cursor after them.
Deliver = Callable[..., Awaitable[None]]


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
        self.pipeline = _pipeline(plan)
        self.intake = FeedIntake(plan, taps, read_semaphore)
        plan.facts.taps = self.intake.taps
        self.error: Exception | None = None
        self.ended_at = 0  #: in ns
        self._deliver = deliver
        self._connections = Connections(plan, self.intake, self.emit, rate_limits)
        self._rest = RestClient(plan, client, rate_limits, self.intake.taps)
        self._history_client = HistoryClient(
            plan, self._rest, self.emit, resubscribe=self._connections.resubscribe,
            event_rate=self._connections.event_rate,
        )  # fmt: skip
        self._recording = recording
        self._source: SourceSupervisor | None = None
        self._stopped = anyio.Event()
        self._stored: Mapping[Subscription, Position] = {}
        self._cursor: Cursor | None = None

    def resume(self, stored: Mapping[Subscription, Position], cursor: Cursor | None = None) -> None:
        """Continue after what a store has of an earlier run; to be called before `run`.

        *cursor* is where a relay stands.
        """
        self._stored, self._cursor = stored, cursor

    async def _resume(self, stored: Mapping[Subscription, Position]) -> None:
        """Open the gaps between what is stored and what comes."""
        feed = self.plan.feed
        for subscription, position in stored.items():
            if subscription.symbol in feed.symbols and subscription.channel in feed.channels:
                now, text = feed.clock.time_ns(), position.to_text()
                self.plan.facts.record(now, "resumed", of=subscription, position=text)
                if reports := resume(self.plan.gaps, subscription, position):
                    await self.emit(reports)

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
            await self._resume(self._stored)
            if self._recording is not None:
                from .replay import FeedReplay  # takes memory in each live stream

                replay = FeedReplay(
                    self._recording, self.plan, self.intake, self.pipeline, self._deliver,
                    self._history_client,
                )  # fmt: skip
                await self._until_stopped(replay.run)
            elif self.plan.relay is not None:
                self.plan.relay.resume(self._cursor)
                await self._until_stopped(SourceSupervisor(self.plan, self._relay).run)
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

    def state(self) -> FeedState:
        """Return what the feed says of itself, from any thread."""
        feed, gaps = self.plan.feed, self.plan.gaps
        return FeedState(
            feed.name, feed.venue, feed.market, tuple(feed.symbols), feed.channels,
            feed.counters.copy(),
            connections=self._connections.state(),
            live=frozenset(gaps.live.copy()),
            open_gaps=len(gaps.watched),
            clock_offset=gaps.last_seen.known_offset,
            stages=self.pipeline.times(),
            has_ended=bool(self.ended_at),
            error=str(self.error or ""),
        )  # fmt: skip

    def emit(self, events: list[Event]) -> Awaitable[None]:
        """Process events with the stages and deliver them to the queues (hot path).

        Return an awaitable that waits for the queues that are full.
        """
        events = self.pipeline(events)
        return self._deliver(events) if events else DONE

    def _relay(self, events: list[Event]) -> Awaitable[None]:
        """Process events of a relay, and deliver them with the cursor after them."""
        return self._deliver(self.pipeline(events), getattr(events, "cursor", None))

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
            tasks.start_soon(self._history_client.run)
            tasks.start_soon(self._timer)
            tasks.start_soon(self._watch)
            self._connections.start(tasks)
        self._connections.ended()
        self.error = self._connections.error

    async def _cancel_when_stopped(self, scope: anyio.CancelScope) -> None:
        await self._stopped.wait()
        await self._connections.leave()
        scope.cancel()

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

    async def add(self, symbols: Sequence[str], stored: Mapping[str, str] = NO_POSITIONS) -> None:
        """Subscribe to more symbols, and continue after what is *stored* of them.

        Raises SymbolError for a symbol that is invalid or not listed, ConfigError if the venue does
        not allow enough connections.
        """
        plan, feed = self.plan, self.plan.feed
        new = [name for name in dict.fromkeys(map(resolve, symbols)) if name not in feed.symbols]
        for symbol in new:
            if problem := feed.listing.problem(symbol):
                raise SymbolError(f"{feed.venue} {problem}")
        plan.subscriptions(new)  # raises before anything has changed
        self._connections.check_room(new)
        plan.add_symbols(new)
        feed.symbols += new
        plan.record_symbols()
        if stored:
            await self._resume(positions_of(stored, feed.venue, new))
        if plan.source is not None:
            plan.source.symbols_changed()
        await self._connections.add(new)

    def is_live(self, symbols: Sequence[str]) -> bool:
        """Return whether the venue has answered all subscriptions of *symbols*, or a source runs."""
        if self.plan.source is not None:
            return self._source is not None
        return self._connections.are_live({*symbols})

    async def fill_gaps(self, symbols: Sequence[str], seconds: float) -> None:
        """Report the gaps of *symbols*, and wait until they are filled, for *seconds* at most."""
        gaps, clock, of = self.plan.gaps, self.plan.feed.clock, {*map(resolve, symbols)}
        self.plan.facts.record(clock.time_ns(), "leaving", of=sorted(of))
        if reports := gaps.report_now(of):
            await self.emit(reports)
        until = clock.monotonic() + seconds
        while gaps.is_filling(of) and clock.monotonic() < until:
            await clock.sleep(_POLL_SECONDS)

    async def drop(self, symbols: Sequence[str]) -> None:
        """Unsubscribe from symbols; report their gaps, which nobody fills any more."""
        removed = {resolve(symbol) for symbol in symbols}
        feed = self.plan.feed
        now = feed.clock.time_ns()
        self.plan.facts.record(now, "dropped", of=sorted(removed))
        if reports := self.plan.gaps.close_all(now, removed):
            await self.emit(reports)
        feed.symbols[:] = [symbol for symbol in feed.symbols if symbol not in removed]
        self.plan.record_symbols()
        await self._connections.drop(removed)
        self._forget_resumed(removed)
        if self._source is not None:
            self._source.forget(removed)
        if self.plan.source is not None:
            self.plan.source.symbols_changed()
        for symbol in removed:
            feed.listing.remove(symbol)
        self.plan.record_symbols(unlisted=removed)

    def _forget_resumed(self, symbols: Collection[str]) -> None:
        """Forget the gaps behind what is stored of *symbols* that no connection has had yet."""
        gaps, now = self.plan.gaps, self.plan.feed.clock.time_ns()
        if left := [Subscription(*key) for key in gaps.watched if key[0] in symbols]:
            self.plan.facts.record(now, "forgotten", of=left)
            gaps.forget(left)


def _pipeline(plan: FeedPlan) -> Pipeline | RelayPipeline:
    if plan.relay is None:
        return Pipeline(plan.feed, plan.steps)
    from tapeloom._stream.relay.pipeline import RelayPipeline  # takes memory in each other stream

    return RelayPipeline(plan.feed, plan.steps)
