"""A stream for plain synchronous code: its event loop runs in a thread.

It works where a loop runs already, as in Jupyter, because that one is not used.
"""

from __future__ import annotations

import atexit
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import anyio
import tapeloom
from anyio.from_thread import start_blocking_portal
from tapeloom import Batches, Event, Gap, Registry, Stream
from tapeloom.errors import TapeloomError
from tapeloom.events import BaseEvent
from tapeloom.units import duration_ns

from .live_frame import ROWS, Frame

__all__ = ["SyncStream", "open_sync"]

E = TypeVar("E", bound=Event)
T = TypeVar("T")

#: Seconds after which a waiting call lets Python see a signal: on Windows, a lock does not.
_SIGNAL_SECONDS = 0.5


def open_sync(
    stack: Any, *, registry: Registry | None = None, record: Path | str | None = None
) -> SyncStream:
    """Open a stream for synchronous code.

    ``with open_sync("stack.toml") as stream: …``. The arguments are those of `tapeloom.open`. *stack* may also be a stream that was not entered, such
    as `tapeloom.replay` returns. Without a `with` block, call `close`. Raises what opening a stream raises.
    """
    if isinstance(stack, Stream):
        return SyncStream(stack)
    # In a thread, where no loop runs: a stream made inside a loop of the caller would belong to that one.
    with ThreadPoolExecutor(1) as thread:
        opening = thread.submit(tapeloom.open, stack, registry=registry, record=record)
        return SyncStream(opening.result())


class SyncStream:
    """A stream in a thread of its own; `open_sync` returns it.

    All calls wait for that thread. Ctrl-C interrupts a call that waits. The error that ended the stream
    is raised by the call that meets it, or else at the end of the `with` block.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream  #: The stream, to be used in the thread of its event loop only.
        self._is_raised = False  # the error that ended the stream has reached the caller
        self._frames: list[Frame] = []
        self._fillings: list[Future[None]] = []
        with ExitStack() as resources:
            backend = stream.stack.backend
            loop = start_blocking_portal(backend, name="tapeloom")
            self._portal = resources.enter_context(loop)
            resources.callback(self._wait_for_frames)  # the loop ends after they do
            resources.enter_context(self._portal.wrap_async_context_manager(stream))
            self._resources = resources.pop_all()
        atexit.register(self.close)
        self._is_open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._is_open:
            return
        self._is_open = False
        atexit.unregister(self.close)
        self._resources.__exit__(kind, error, trace)
        if error is None:
            self._raise_error()

    def close(self) -> None:
        """Stop the stream, and end its thread. Frames stay readable.

        Raises `error`, unless a call has raised one before.
        """
        self.__exit__(None, None, None)

    def _wait_for_frames(self) -> None:
        """Wait until the frames have all that the stream, which has ended, has given."""
        for filling in self._fillings:
            filling.result()

    def _raise_error(self) -> None:
        """Raise the error that ended the stream or a frame, unless the caller has seen one."""
        if self.error is not None and not self._is_raised:
            self._is_raised = True
            raise self.error

    @overload
    def _call(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T: ...

    @overload
    def _call(self, function: Callable[..., T], *arguments: Any) -> T: ...

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function, async or not, in the thread of the loop; return or raise what it does."""
        if not self._is_open:
            raise RuntimeError("the stream is closed; open another one with open_sync")
        future = self._portal.start_task_soon(function, *arguments)
        try:
            while not wait([future], _SIGNAL_SECONDS).done:
                pass
        except BaseException:  # such as KeyboardInterrupt
            future.cancel()
            raise
        try:
            return future.result()
        except TapeloomError:
            self._is_raised = True
            raise

    # ------------------------------------------------------------------------------------- consuming

    def batches(
        self, *types: type[E], size: int | None = None, within: float | None = None
    ) -> Iterator[list[E]]:
        """Iterate over lists of events of these types, or of all types.

        Without *size*, each list holds the events that arrived together. With *size*, a list holds
        that many events, or fewer if *within* seconds have passed since the first, or at the end. The
        consumer attaches when the iteration begins.
        """
        consumer = self._call(partial(self.stream.consume, *types))
        try:
            batches = consumer.batches(size, within)
            while batch := self._call(_next, batches):
                yield batch
        finally:
            if self._is_open:
                self._call(consumer.close)

    def of(self, *types: type[E]) -> Iterator[E]:
        """Iterate over events of these types, or of all types."""
        for batch in self.batches(*types):
            yield from batch

    def __iter__(self) -> Iterator[Event]:
        return self.of()

    def frame(
        self, event_class: type[BaseEvent], last: str | None = "1h", rows: int | None = ROWS
    ) -> Frame:
        """Return a `Frame` that the stream fills from now on, until it is closed."""
        window, name = Frame(event_class, last, rows), f"frame of {event_class.type}"
        consumer = self._call(partial(self.stream.consume, event_class, Gap, name=name))
        self._fillings.append(self._portal.start_task_soon(window.fill, consumer))
        self._frames.append(window)
        return window

    def wait(self, for_: str | float | None = None) -> None:
        """Wait while the stream runs: for a time, such as "10s" or a number of seconds, or to its end.

        Frames are filled meanwhile, as at any other time; at the end of the stream they are complete.
        Raises the error that ended the stream or a frame.
        """
        if self._call(self._run, seconds(for_)):
            self._wait_for_frames()
        self._raise_error()

    async def _run(self, limit: float | None) -> bool:
        """Run for some seconds, and return whether the stream has ended."""
        with anyio.move_on_after(limit):
            await self.stream.run()
            return True
        return False

    def run(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Await ``function(stream, *arguments)`` in the thread of the loop, and return its result."""
        return self._call(function, self.stream, *arguments)

    # -------------------------------------------------------------------------------------- steering

    def add(self, *symbols: str, feed: str = "") -> None:
        """Subscribe to more symbols, as `Stream.add` does."""
        self._call(partial(self.stream.add, *symbols, feed=feed))

    def drop(self, *symbols: str, feed: str = "") -> None:
        """Unsubscribe from symbols, as `Stream.drop` does."""
        self._call(partial(self.stream.drop, *symbols, feed=feed))

    def stop(self) -> None:
        """Stop reading. Events already read are still delivered; then the iterators end."""
        self._call(self.stream.stop)

    @property
    def counters(self) -> Counter[str]:
        """The counters of all feeds and consumers, added up."""
        return self.stream.counters

    @property
    def error(self) -> Exception | None:
        """The error that ended a feed or a frame, if any."""
        errors = (frame.error for frame in self._frames)
        return self.stream.error or next(filter(None, errors), None)


def seconds(duration: str | float | None) -> float | None:
    """Return a duration, such as "10s", in seconds; a number is one already."""
    return duration_ns(duration) / 1e9 if isinstance(duration, str) else duration


async def _next(batches: Batches[E]) -> list[E]:
    """Return the next batch, or an empty list at the end of the stream."""
    return await anext(batches, [])
