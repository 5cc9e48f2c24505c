"""The tasks that empty the queues of async callbacks and sinks.

An exception raised by one of them is logged and counted; it does not affect the others.
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

from .callbacks import Callback, report_failure
from .queues import Queue

log = structlog.get_logger()

BuildSink = Callable[[], Sink]
#: Seconds that closing a sink may take.
CLOSE_SECONDS = 5.0


class ConsumerTasks:
    """The tasks of the async callbacks and sinks of one stream."""

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._running = 0
        self._idle = anyio.Event()

    def add(self) -> None:
        """Count a task that is about to start."""
        self._running += 1

    async def wait(self) -> None:
        """Wait until every task has emptied its queue and ended."""
        if self._running:
            await self._idle.wait()

    async def run_callback(
        self, callback: Callback, queue: Queue, first: tuple[Event, Awaitable[None]] | None = None
    ) -> None:
        """Call *callback* with every event until the queue ends.

        *first* is an event it was already called with, and the awaitable it returned.
        """
        if first is not None:
            event, result = first
            try:
                await result
            except Exception as error:
                report_failure(queue.name, event, error, self._counters)
        while events := await self._get_batch(queue):
            for event in events:
                try:
                    returned = callback(event)
                    if returned is not None and inspect.isawaitable(returned):
                        await returned
                except Exception as error:
                    report_failure(queue.name, event, error, self._counters)
        self._task_ended()

    async def run_sink(self, sink: Sink, queue: Queue, on_error: str, build: BuildSink) -> None:
        """Write every batch to *sink* until the queue ends; then close it.

        If it raises, the batch is lost; *on_error* says whether it is then disabled or restarted.
        """
        try:
            while events := await self._get_batch(queue):
                try:
                    await sink.write(events)
                except Exception as error:
                    self._report_failure(queue, error, len(events), first=repr(events[0]))
                    if on_error == "disable":
                        self._disable(queue)
                    elif on_error == "restart":
                        sink = await self._restart(sink, queue, build)
        finally:
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                await self._close(sink, queue)
        self._task_ended()

    async def _restart(self, sink: Sink, queue: Queue, build: BuildSink) -> Sink:
        """Close *sink* and return a new one; return *sink* if no new one can be built."""
        with anyio.move_on_after(CLOSE_SECONDS):
            await self._close(sink, queue)
        try:
            return build()
        except Exception as error:
            self._report_failure(queue, error, 0)
            return sink

    def _disable(self, queue: Queue) -> None:
        lost = 0
        queue.close()
        while events := queue.get_nowait():
            lost += len(events)
        log.error("sink_disabled", sink=queue.name, events_lost=lost)

    def _report_failure(self, queue: Queue, error: Exception, lost: int, **fields: str) -> None:
        """Log and count an exception that a sink raised; *lost* is the number of events lost."""
        self._counters["sink_errors"] += 1
        log.error("sink_failed", sink=queue.name, events_lost=lost, exc_info=error, **fields)

    async def _close(self, sink: Sink, queue: Queue) -> None:
        try:
            await sink.aclose()
        except Exception as error:
            self._report_failure(queue, error, 0)

    async def _get_batch(self, queue: Queue) -> list[Event]:
        """Return the next batch; an empty one at the end of the stream, for whatever reason."""
        try:
            return await queue.get()
        except QueueOverflow as error:
            # The policy "error" ends this consumer. Its task has no caller to raise the error to.
            self._counters["overflows"] += 1
            log.error("consumer_overflowed", consumer=queue.name, reason=str(error))
        except TapeloomError:
            pass  # `FeedRunner` reports the error that ended the stream
        return []

    def _task_ended(self) -> None:
        self._running -= 1
        if not self._running:
            self._idle.set()
