"""Callbacks and sinks: the consumers whose queues we empty ourselves.

What one of them raises is logged, counted, and harms nobody else.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Awaitable, Callable

import anyio
import structlog

from tapeloom.errors import QueueOverflow, TapeloomError
from tapeloom.events import Event
from tapeloom.plugin import Sink

from .callbacks import Callback, failed
from .queues import Queue

log = structlog.get_logger()

Build = Callable[[], Sink]
#: How long a sink may take to let go.
CLOSE_WITHIN = 5.0


class ConsumerTasks:
    """The callbacks and sinks of one stream."""

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._running = 0
        self._idle = anyio.Event()

    def add(self) -> None:
        """Count one that is about to run."""
        self._running += 1

    async def wait(self) -> None:
        """Wait until each has emptied its queue and ended."""
        if self._running:
            await self._idle.wait()

    async def call(
        self, callback: Callback, queue: Queue, first: tuple[Event, Awaitable[None]] | None = None
    ) -> None:
        """Call *callback* with every event, until the queue ends.

        *first*: an event with which it has been called, and its answer, which is to be awaited.
        """
        if first is not None:
            event, answer = first
            try:
                await answer
            except Exception as error:
                failed(queue.name, event, error, self._counters)
        while events := await self._next(queue):
            for event in events:
                try:
                    given = callback(event)
                    if given is not None and inspect.isawaitable(given):
                        await given
                except Exception as error:
                    failed(queue.name, event, error, self._counters)
        self._ended()

    async def write(self, sink: Sink, queue: Queue, on_error: str, build: Build) -> None:
        """Have *sink* write every batch, until the queue ends; then close it.

        What it raises costs that batch; *on_error* says what happens then.
        """
        try:
            while events := await self._next(queue):
                try:
                    await sink.write(events)
                except Exception as error:
                    self._failed(queue, error, len(events), first=repr(events[0]))
                    if on_error == "disable":
                        self._leave_out(queue)
                    elif on_error == "restart":
                        sink = await self._anew(sink, queue, build)
        finally:
            with anyio.move_on_after(CLOSE_WITHIN, shield=True):
                await self._close(sink, queue)
        self._ended()

    async def _anew(self, sink: Sink, queue: Queue, build: Build) -> Sink:
        """Return a new sink in the place of one that raised; the same where none can be made."""
        with anyio.move_on_after(CLOSE_WITHIN):
            await self._close(sink, queue)
        try:
            return build()
        except Exception as error:
            self._failed(queue, error, 0)
            return sink

    def _leave_out(self, queue: Queue) -> None:
        lost = 0
        queue.close()
        while events := queue.get_nowait():
            lost += len(events)
        log.error("sink_disabled", sink=queue.name, events_lost=lost)

    def _failed(self, queue: Queue, error: Exception, lost: int, **more: str) -> None:
        """Count and log what a sink has raised."""
        self._counters["sink_errors"] += 1
        log.error("sink_failed", sink=queue.name, events_lost=lost, exc_info=error, **more)

    async def _close(self, sink: Sink, queue: Queue) -> None:
        try:
            await sink.aclose()
        except Exception as error:
            self._failed(queue, error, 0)

    async def _next(self, queue: Queue) -> list[Event]:
        """Return the next batch; an empty one at the end, whatever ended the stream."""
        try:
            return await queue.get()
        except QueueOverflow as error:
            # Its policy is to end; nobody iterates over it whom the error could reach.
            self._counters["overflows"] += 1
            log.error("consumer_overflowed", consumer=queue.name, reason=str(error))
        except TapeloomError:
            pass  # what ended the stream is told by whoever runs it
        return []

    def _ended(self) -> None:
        self._running -= 1
        if not self._running:
            self._idle.set()
