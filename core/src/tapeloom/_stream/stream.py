"""What `tapeloom.open` returns: a stream of checked events, and everything that can be done with it."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
import structlog

from tapeloom._compose.plan import Composition, FeedPlan
from tapeloom._config import QueueSpec, Stack
from tapeloom._network.http_client import client
from tapeloom._network.websocket import dialer
from tapeloom._runtime.event_loop import DONE, running_backend
from tapeloom._runtime.gc_tuning import gc_tuned
from tapeloom._runtime.rate_limits import RateLimits
from tapeloom._runtime.taps import FrameTap
from tapeloom._tape.flight_recorder import FlightRecorder
from tapeloom._tape.recorder import TAPE, Recorder
from tapeloom._tape.replay import Recording
from tapeloom.errors import BackendUnsupported, ConfigError, Mistake, unwrap_single
from tapeloom.events import BY_TYPE, Event, QueuePolicy, Status
from tapeloom.plugin import Clock, Dial

from .callbacks import Callback, Callbacks
from .consumer_tasks import ConsumerTasks
from .consumers import Batches, Consumer
from .feed_runner import FeedRunner
from .queues import Queue

log = structlog.get_logger()

E = TypeVar("E", bound=Event)

_DRAIN_WITHIN = 5.0
#: Bytes that the flight recorder of one feed may hold, however many feeds there are.
_LEAST = 65_536


class Stream:
    """Events of all feeds of a stack. An async context manager, and an async iterable.

    Every iteration, every `of`, `batches` and `on` attaches a consumer with a queue of its own. The
    feeds start when the first consumer is attached, so that nothing comes before anyone listens.
    Leaving the context stops everything that belongs to the stream.
    """

    def __init__(
        self,
        stack: Stack,
        composed: Composition,
        clock: Clock,
        dial: Dial | None,
        recording: Recording | None = None,
        record: Path | None = None,
    ) -> None:
        self.stack = stack
        self.plans = tuple(composed.plans)
        self._sinks = tuple(composed.sinks)
        self._clock = clock
        self._dial = dial
        self._recording = recording
        self._record = record
        self._queues: tuple[Queue, ...] = ()
        self._feeds: dict[str, FeedRunner] = {}
        self._flights: dict[str, FlightRecorder] = {}
        self._own: Counter[str] = Counter()
        self._pumps = ConsumerTasks(self._own)
        self._started = False
        self._ended = anyio.Event()
        self._exits = AsyncExitStack()
        self._tasks: anyio.abc.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        for spec, sink, _ in self._sinks:
            if (running := running_backend()) not in sink.backends:
                raise BackendUnsupported(spec.use, running, sink.backends)
        self._check_ways()
        web = await self._exits.enter_async_context(client(self.stack.network, self.stack.source))
        budgets, turns = RateLimits(self._clock), anyio.Semaphore(1, fast_acquire=True)
        compressed = self.stack.network.compression
        for plan in self.plans:
            name = plan.feed.name
            own = dialer(web, name, self._clock, compressed=compressed)
            plan.transport.chosen = self._dial or plan.transport.chosen or own
            self._feeds[name] = FeedRunner(
                plan, self._deliver, web, budgets, self._taps(plan), turns, self._recording
            )
        self._exits.enter_context(gc_tuned(self.stack.process.gc_threshold))
        self._tasks = await self._exits.enter_async_context(anyio.create_task_group())
        return self

    def _check_ways(self) -> None:
        """Raise BackendUnsupported where a way to dial that is about to be used knows other loops."""
        if self._dial is not None or self._recording is not None:
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
            if not queue.pumped or error is not None:
                queue.close()
        if error is None and self._started:
            await self._drain()
        self._tasks.cancel_scope.cancel()
        try:
            # The body's own exception goes its way untouched, not wrapped in a group of ours.
            await self._exits.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            raise unwrap_single(group) from None

    def _taps(self, plan: FeedPlan) -> list[FrameTap]:
        """Return who listens to what a feed brings, before anybody understands it."""
        if self._recording is not None or plan.source is not None:
            return []
        feed, spec = plan.feed, self.stack.flight
        flight = FlightRecorder(feed, spec, max(spec.size // len(self.plans), _LEAST))
        self._flights[feed.name] = flight
        if self._record is None:
            return [flight]
        return [flight, Recorder(self._record / f"{feed.name}{TAPE}", feed, self._clock)]

    async def _drain(self) -> None:
        """Let callbacks and sinks take what is queued, within a deadline."""
        with anyio.move_on_after(_DRAIN_WITHIN) as scope:
            await self._ended.wait()
            await self._pumps.wait()
        if scope.cancelled_caught:
            left = sum(queue.count for queue in self._queues if queue.pumped)
            log.error("drain_incomplete", seconds=_DRAIN_WITHIN, events_lost=left)

    # ------------------------------------------------------------------------------------ consuming

    def consume(
        self,
        *types: type[E],
        size: int | None = None,
        policy: QueuePolicy | None = None,
        name: str = "",
    ) -> Consumer[E]:
        """Attach a consumer of events of these types, or of all.

        *size* and *policy* are those of its queue, by default the stack's.
        """
        default = self.stack.queue
        spec = QueueSpec(
            size=default.size if size is None else size, policy=policy or default.policy
        )
        name = name or f"consumer {len(self._queues) + 1}"
        queue = Queue(spec, types or None, name, counters=self._own)
        self._attach(queue)
        return Consumer(queue)

    def _attach(self, queue: Queue) -> None:
        if self._ended.is_set():
            queue.close(self.error)
        self._queues = (*(one for one in self._queues if not one.closed), queue)
        self._start()

    def _pump(
        self, pump: Callable[..., Coroutine[Any, Any, None]], taker: Any, queue: Queue, *rest: Any
    ) -> None:
        """Have *pump* bring to *taker* what comes into *queue*."""
        assert self._tasks is not None
        self._pumps.add()
        self._tasks.start_soon(pump, taker, queue, *rest)

    def of(self, *types: type[E]) -> Consumer[E]:
        """Attach a consumer of events of these types: ``async for bar in stream.of(Bar)``."""
        return self.consume(*types)

    def __aiter__(self) -> Consumer[Event]:
        return self.consume()

    def batches(
        self, *types: type[E], size: int | None = None, within: float | None = None
    ) -> Batches[E]:
        """Attach a consumer that gets lists: of *size* events, or fewer *within* seconds.

        Without *size*, each list is what arrived together.
        """
        return self.consume(*types).batches(size, within)

    def on(self, *types: type[E]) -> Callable[[Callback], Callback]:
        """Decorate a function that is called with every event of these types, or of all.

        A plain function is called in the turn in which the event was read: nothing is queued, none
        is dropped, and whoever else consumes waits while it works. An async one has a queue, and a
        task of its own. What either raises is logged and counted, and harms nobody else.
        """

        def register(callback: Callback) -> Callback:
            assert self._tasks is not None, "callbacks are attached inside `async with`"
            name = getattr(callback, "__name__", "callback")
            spec, own, wanted = self.stack.queue, self._own, types or None
            if inspect.iscoroutinefunction(callback):
                queue = Queue(spec, wanted, name, pumped=True, counters=own)
                self._pump(self._pumps.call, callback, queue)
            else:
                pump = partial(self._pump, self._pumps.call, callback)
                queue = Callbacks(callback, spec, wanted, name, own, pump)
            self._attach(queue)
            return callback

        return register

    async def run(self) -> None:
        """Wait until every feed has ended; for streams that only have callbacks and sinks.

        Raises what ended the last one.
        """
        self._start()
        await self._ended.wait()
        if self.error is not None:
            raise self.error

    # -------------------------------------------------------------------------------------- running

    def _start(self) -> None:
        """Start the feeds, once."""
        if self._started:
            return
        assert self._tasks is not None, "a stream is used inside `async with tapeloom.open(…)`"
        self._started = True
        for spec, sink, build in self._sinks:
            types = [BY_TYPE[name] for name in spec.types] or None
            queue = Queue(spec.queue, types, spec.name, pumped=True, counters=self._own)
            self._pump(self._pumps.write, sink, queue, spec.on_error, build)
            self._attach(queue)
        self._tasks.start_soon(self._run_feeds)

    async def _run_feeds(self) -> None:
        async with anyio.create_task_group() as feeds:
            for feed in self._feeds.values():
                feeds.start_soon(self._run_feed, feed)
        self._ended.set()
        for queue in self._queues:
            queue.close(self.error)

    async def _run_feed(self, feed: FeedRunner) -> None:
        await feed.run()
        name, now = feed.plan.feed.name, feed.plan.feed.clock.time_ns()
        state, detail = ("failed", str(feed.error)) if feed.error else ("ended", f"feed {name}")
        await self._deliver([Status(feed.plan.feed.venue, "", now, now, state, detail)])

    def _deliver(self, events: list[Event]) -> Awaitable[None]:
        """Put events into every queue; return what is to be waited for, where one is full."""
        for place, queue in enumerate(self._queues):
            if not queue.offer(events):
                return self._put(self._queues[place:], events)
        return DONE

    async def _put(self, queues: Sequence[Queue], events: list[Event]) -> None:
        # What was read is delivered even while we are being stopped: whoever stops us closes the
        # queues in the end.
        with anyio.CancelScope(shield=True):
            for queue in queues:
                await queue.put(events)

    # ------------------------------------------------------------------------------------- steering

    async def add(self, *symbols: str, feed: str = "") -> None:
        """Stream more symbols, in the feed named *feed* or in the only one there is.

        Raises SymbolError for one that the venue does not list, ConfigError for an unknown feed.
        """
        await self._feed(feed).add(symbols)

    async def drop(self, *symbols: str, feed: str = "") -> None:
        """Stream these symbols no more. Raises ConfigError for an unknown feed."""
        await self._feed(feed).drop(symbols)

    async def dump(self, folder: Path | str) -> list[Path]:
        """Write what has come in during the last seconds, as a bundle of each feed that has frames.

        `[flight]` says how much is kept. Raises OSError.
        """
        flights = self._flights.values()
        return [await flight.save(Path(folder), "dump") for flight in flights]

    def stop(self) -> None:
        """Read no more. What was read is still delivered; then the consumers come to their end."""
        for feed in self._feeds.values():
            feed.stop()

    def _feed(self, name: str) -> FeedRunner:
        if not name and len(self._feeds) == 1:
            return next(iter(self._feeds.values()))
        if name not in self._feeds:
            known = ", ".join(map(repr, self._feeds))
            raise ConfigError(
                [
                    Mistake(
                        "feed",
                        f"{f'there is no feed {name!r}' if name else 'say which feed'}: {known}",
                    )
                ]
            )
        return self._feeds[name]

    def stage(self, name: str, feed: str = "") -> Any:
        """Return the stage object called *name*, such as the one that keeps the books."""
        stages = self._feed(feed).pipeline.stages
        if name not in stages:
            raise ConfigError(
                [Mistake("stages", f"there is no stage {name!r}, only {list(stages)}")]
            )
        return stages[name]

    @property
    def counters(self) -> Counter[str]:
        """What has been counted, over all feeds. `plans` has each feed's own."""
        total: Counter[str] = Counter(self._own)
        for plan in self.plans:
            total.update(plan.feed.counters)
        return total

    @property
    def error(self) -> Exception | None:
        """What ended a feed, None where none failed."""
        return next((feed.error for feed in self._feeds.values() if feed.error), None)
