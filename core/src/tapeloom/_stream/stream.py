"""The `Stream` that `tapeloom.open` returns: runs the feeds and delivers their events to consumers."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio
import anyio.to_thread
import structlog

from tapeloom._compose.plan import Composition, FeedPlan
from tapeloom._config import QueueSpec, Stack
from tapeloom._runtime.event_loop import DONE, running_backend
from tapeloom._runtime.gc_tuning import gc_tuned
from tapeloom._runtime.rate_limits import RateLimits
from tapeloom._runtime.taps import FrameTap
from tapeloom._tape.flight_recorder import FlightRecorder
from tapeloom._tape.recorder import TAPE, Recorder
from tapeloom._tape.replay import Recording
from tapeloom.errors import BackendUnsupported, ConfigError, Mistake, TapeloomError, unwrap_single
from tapeloom.events import Event, QueuePolicy, Status
from tapeloom.plugin import Clock, Cursor, Steered, Steering, StreamState

from .callbacks import Callback, Callbacks
from .consumer_tasks import ConsumerTasks
from .consumers import Batches, Consumer
from .feed.runner import FeedRunner
from .queues import Queue
from .sinks.checkpoints import checkpoints_after
from .sinks.observed import Observed

if TYPE_CHECKING:
    import httpx

    from .sinks.runner import SinkRunner

log = structlog.get_logger()

E = TypeVar("E", bound=Event)

#: Seconds that callbacks and sinks have at the end to empty their queues.
_DRAIN_SECONDS = 5.0
#: Bytes that the flight recorder of each feed may hold at least, however many feeds share its size.
_MIN_FLIGHT_BYTES = 65_536


class Stream:
    """The events of all feeds of a stack: an async context manager and an async iterable.

    Each iteration and each call of `of`, `batches` and `on` attaches a consumer with its own queue.
    The feeds start when the first consumer attaches, so that it misses no event. Leaving the context
    stops the stream.
    """

    def __init__(
        self,
        stack: Stack,
        composed: Composition,
        clock: Clock,
        http: httpx.AsyncClient,
        recording: Recording | None = None,
        record: Path | None = None,
    ) -> None:
        self.stack = stack
        self.plans = tuple(composed.plans)
        self._sink_plans = composed.sinks
        self._sinks: Sequence[SinkRunner] = ()
        self._steering = composed.steering if recording is None else None
        self._steering_error: Exception | None = None
        self._clock = clock
        self._http = http
        self._recording = recording
        self._record = record
        self._queues: tuple[Queue, ...] = ()
        self._feeds: dict[str, FeedRunner] = {}
        self._flight_recorders: dict[str, FlightRecorder] = {}
        self._counters: Counter[str] = Counter()
        self._consumer_tasks = ConsumerTasks(self._counters)
        self._started = False
        self._ended = anyio.Event()
        self._exit_stack = AsyncExitStack()
        self._tasks: anyio.abc.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        for sink in self._sink_plans:
            if (running := running_backend()) not in sink.backends:
                raise BackendUnsupported(sink.spec.use, running, sink.backends)
        if self._steering is not None and running_backend() not in self._steering.backends:
            assert self.stack.cluster is not None
            raise BackendUnsupported(
                self.stack.cluster.use, running_backend(), self._steering.backends
            )
        self._check_transports()
        http = await self._exit_stack.enter_async_context(self._http)
        limits, semaphore = RateLimits(self._clock), anyio.Semaphore(1, fast_acquire=True)
        for plan in self.plans:
            name = plan.feed.name
            if self._steering is not None:
                plan.feed.symbols.clear()
            self._feeds[name] = FeedRunner(
                plan, self._deliver, http, limits, self._taps(plan), semaphore, self._recording
            )
        await self._open_sinks()
        self._exit_stack.enter_context(gc_tuned(self.stack.process.gc_threshold))
        self._tasks = await self._exit_stack.enter_async_context(anyio.create_task_group())
        return self

    async def _open_sinks(self) -> None:
        """Open the sinks, and let the feeds continue where their stores stand. Raises SinkRefused."""
        if not self._sink_plans:
            return
        from .sinks.cursors import earliest  # they take memory where there are no sinks
        from .sinks.opening import open_all, runners

        epoch = self._clock.time_ns()
        if self._recording is not None:
            epoch = await anyio.to_thread.run_sync(self._recording.epoch, repr(self.stack))
        is_replay = self._recording is not None
        # Full queues stop a replay and a relay: what they would drop can be read later.
        relays = [plan.relay is not None for plan in self.plans]
        never_drop = is_replay or all(relays)
        self._sinks = runners(
            self._sink_plans, self._clock, self._counters, self.state, never_drop=never_drop
        )
        stored = await open_all(self._sinks, epoch, is_replay=is_replay, must_open=any(relays))
        for name, feed in self._feeds.items():
            feed.resume(
                stored.get(feed.plan.feed.venue, {}),
                earliest([sink.cursors.stored.get(name) for sink in self._sinks]),
            )

    def _check_transports(self) -> None:
        """Raise BackendUnsupported if the chosen transport does not run on this event loop."""
        if self._recording is not None:
            return
        for plan in self.plans:
            backends = plan.transport.backends
            if plan.source is None and (running := running_backend()) not in backends:
                raise BackendUnsupported(self.stack.network.transport, running, backends)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._tasks is not None
        self.stop()
        for queue in self._queues:
            if not queue.has_task or error is not None:
                queue.close()
        try:
            if error is None and self._started:
                await self._drain()
        finally:  # also if the caller is cancelled meanwhile
            self._tasks.cancel_scope.cancel()
            try:
                # Without the body's exception, which Python raises itself, not wrapped in our group.
                await self._exit_stack.__aexit__(None, None, None)
            except BaseExceptionGroup as group:
                raise unwrap_single(group) from None

    def _taps(self, plan: FeedPlan) -> list[FrameTap]:
        """Return the taps on the raw frames of a feed: flight recorder and, if asked for, recorder."""
        if self._recording is not None or plan.source is not None:
            return []
        feed, spec = plan.feed, self.stack.flight
        size = max(spec.size // len(self.plans), _MIN_FLIGHT_BYTES)
        flight = FlightRecorder(feed, spec, size, plan.gaps.live)
        self._flight_recorders[feed.name] = flight
        if self._record is None:
            return [flight]
        return [flight, Recorder(self._record / f"{feed.name}{TAPE}", feed, self._clock)]

    async def _drain(self) -> None:
        """Wait until callbacks and sinks have processed the queued events, within a deadline."""
        with anyio.move_on_after(_DRAIN_SECONDS) as scope:
            await self._ended.wait()
            await self._consumer_tasks.wait()
        if scope.cancelled_caught:
            left = sum(queue.count for queue in self._queues if queue.has_task)
            log.error("drain_incomplete", seconds=_DRAIN_SECONDS, events_lost=left)

    # ------------------------------------------------------------------------------------ consuming

    def consume(
        self,
        *types: type[E],
        size: int | None = None,
        policy: QueuePolicy | None = None,
        name: str = "",
    ) -> Consumer[E]:
        """Attach a consumer of events of these types, or of all types.

        *size* and *policy* are those of its queue, by default the stack's; *name* is for messages.
        """
        default = self.stack.queue
        spec = QueueSpec(
            size=default.size if size is None else size, policy=policy or default.policy
        )
        name = name or f"consumer {len(self._queues) + 1}"
        queue = Queue(spec, types or None, name, counters=self._counters)
        self._attach(queue)
        return Consumer(queue)

    def _attach(self, queue: Queue) -> None:
        if self._ended.is_set():
            queue.close(self.error)
        self._queues = (*(other for other in self._queues if not other.closed), queue)
        self._start()

    def _start_task(
        self, run: Callable[..., Coroutine[Any, Any, None]], consumer: Any, queue: Queue, *args: Any
    ) -> None:
        """Start the task *run* that empties *queue* into *consumer*, a callback or a sink."""
        assert self._tasks is not None
        self._consumer_tasks.add()
        self._tasks.start_soon(run, consumer, queue, *args)

    def of(self, *types: type[E]) -> Consumer[E]:
        """Attach a consumer of events of these types: ``async for bar in stream.of(Bar)``."""
        return self.consume(*types)

    def __aiter__(self) -> Consumer[Event]:
        return self.consume()

    def batches(
        self, *types: type[E], size: int | None = None, within: float | None = None
    ) -> Batches[E]:
        """Attach a consumer and return an async iterator over lists of events.

        Without *size*, each list holds the events that arrived together. With *size*, a list holds
        that many events, or fewer if *within* seconds have passed since the first, or at the end.
        """
        return self.consume(*types).batches(size, within)

    def on(self, *types: type[E]) -> Callable[[Callback], Callback]:
        """Decorate a function so that it is called with every event of these types, or of all types.

        A plain function is called while the event is delivered: no event is queued or dropped, and
        the other consumers wait until it returns. An async function has a queue and a task of its
        own. Exceptions are logged and counted; the other consumers are not affected.
        """

        def register(callback: Callback) -> Callback:
            assert self._tasks is not None, "callbacks are attached inside `async with`"
            name = getattr(callback, "__name__", "callback")
            spec, counters, selected = self.stack.queue, self._counters, types or None
            if inspect.iscoroutinefunction(callback):
                queue = Queue(spec, selected, name, has_task=True, counters=counters)
                self._start_task(self._consumer_tasks.run_callback, callback, queue)
            else:
                start = partial(self._start_task, self._consumer_tasks.run_callback, callback)
                queue = Callbacks(callback, spec, selected, name, counters, start)
            self._attach(queue)
            return callback

        return register

    def observe(self, function: Callable[[list[Event]], None], name: str = "observer") -> None:
        """Have *function* called with each batch while it is delivered, without a queue.

        The other consumers wait until it returns, and it must not change the list. It costs less than a
        call for each event, as by `on`. After an exception, which is logged, it is not called again.
        """
        queue = Observed(self.stack.queue, None, name, has_task=True, counters=self._counters)
        queue.observe = function
        self._attach(queue)

    async def run(self) -> None:
        """Run until every feed has ended; for streams that have only callbacks and sinks.

        Raises the error of a feed that failed.
        """
        self._start()
        await self._ended.wait()
        if self.error is not None:
            raise self.error

    # -------------------------------------------------------------------------------------- running

    def _start(self) -> None:
        """Start the sinks and feeds, unless they have been started."""
        if self._started:
            return
        assert self._tasks is not None, "a stream is used inside `async with tapeloom.open(…)`"
        self._started = True
        for sink in self._sinks:
            self._start_task(self._consumer_tasks.run_sink, sink, sink.queue)
            self._attach(sink.queue)
        self._tasks.start_soon(self._run_feeds)
        if self._steering is not None:
            self._tasks.start_soon(self._steer, self._steering)

    async def _steer(self, steering: Steering) -> None:
        """Run the steering until cancelled; stop the stream if it fails."""
        try:
            await steering.run(Steered(self._feeds, self._deliver, self._clock, checkpoints_after))
        except TapeloomError as error:
            self._steering_error = error
            log.error("steering_failed", reason=str(error))
            self.stop()

    async def _run_feeds(self) -> None:
        async with anyio.create_task_group() as feeds:
            for feed in self._feeds.values():
                feeds.start_soon(self._run_feed, feed)
        self._ended.set()
        for queue in self._queues:
            queue.close(self.error)

    async def _run_feed(self, feed: FeedRunner) -> None:
        await feed.run()
        name, now = feed.plan.feed.name, feed.ended_at or feed.plan.feed.clock.time_ns()
        state, detail = ("failed", str(feed.error)) if feed.error else ("ended", f"feed {name}")
        await self._deliver([Status(feed.plan.feed.venue, "", now, now, state, detail)])
        if self._recording is not None:
            self._recording.turns.leave(name)

    def _deliver(self, events: list[Event], cursor: Cursor | None = None) -> Awaitable[None]:
        """Put events into every queue (hot path); return an awaitable that waits for full queues."""
        for index, queue in enumerate(self._queues):
            if not queue.put_nowait(events, cursor):
                return self._put_all(self._queues[index:], events, cursor)
        return DONE

    async def _put_all(
        self, queues: Sequence[Queue], events: list[Event], cursor: Cursor | None
    ) -> None:
        # Events that were read are delivered even during cancellation. It cannot block for ever:
        # `__aexit__` closes the queues.
        with anyio.CancelScope(shield=True):
            for queue in queues:
                await queue.put(events, cursor)

    # ------------------------------------------------------------------------------------- steering

    async def add(self, *symbols: str, feed: str = "") -> None:
        """Subscribe to more symbols, in the feed named *feed*, which may be omitted if there is one.

        Raises SymbolError for a symbol that is not listed, ConfigError for an unknown feed.
        """
        await self._feed(feed).add(symbols)

    async def drop(self, *symbols: str, feed: str = "") -> None:
        """Unsubscribe from symbols. Raises ConfigError for an unknown feed."""
        await self._feed(feed).drop(symbols)

    async def dump(self, folder: Path | str) -> list[Path]:
        """Write the frames of the last seconds to *folder*: a bundle for each feed that has frames.

        `[flight]` sets how much is kept. Returns the bundles. Raises OSError.
        """
        recorders = self._flight_recorders.values()
        return [await recorder.save(Path(folder), "dump") for recorder in recorders]

    def stop(self) -> None:
        """Stop reading. Events already read are still delivered; then the consumers end."""
        for feed in self._feeds.values():
            feed.stop()

    def _feed(self, name: str) -> FeedRunner:
        if not name and len(self._feeds) == 1:
            return next(iter(self._feeds.values()))
        if name not in self._feeds:
            known = ", ".join(map(repr, self._feeds))
            problem = f"there is no feed {name!r}" if name else "name one of several feeds"
            raise ConfigError([Mistake("feed", f"{problem}: {known}")])
        return self._feeds[name]

    def stage(self, name: str, feed: str = "") -> Any:
        """Return the stage object named *name*, for example the one of order books."""
        stages = self._feed(feed).pipeline.stages
        if name not in stages:
            problem = f"there is no stage {name!r}, only {list(stages)}"
            raise ConfigError([Mistake("stages", problem)])
        return stages[name]

    def state(self) -> StreamState:
        """Return what the stream says of itself now: feeds, connections, queues, gaps, counters.

        It may be called from any thread. From the first call on the times of the stages and the delays
        of the queues are measured, which costs less than 1 µs a batch for each.
        """
        clock, sinks = self._clock, {id(sink.queue) for sink in self._sinks}
        return StreamState(
            self._clock.time_ns(),
            tuple(feed.state() for feed in self._feeds.values()),
            (
                *(queue.state(clock) for queue in self._queues if id(queue) not in sinks),
                *(sink.state(clock) for sink in self._sinks),
            ),
            self.counters,
            self._recording is not None,
        )

    @property
    def counters(self) -> Counter[str]:
        """The counters of all feeds and consumers, added up; `plans[n].feed.counters` are one feed's."""
        total: Counter[str] = Counter(self._counters)
        for plan in self.plans:
            total.update(plan.feed.counters.copy())  # it may be asked for by another thread
        return total

    @property
    def progress(self) -> tuple[int, int] | None:
        """How many bytes of the tapes have been read, and how many they have; None if it is live."""
        if self._recording is None:
            return None
        tapes = self._recording.tapes.values()
        return sum(tape.position for tape in tapes), sum(tape.size for tape in tapes)

    @property
    def error(self) -> Exception | None:
        """The error of the steering or of the first feed that failed, None if none has."""
        return self._steering_error or next(
            (feed.error for feed in self._feeds.values() if feed.error), None
        )
