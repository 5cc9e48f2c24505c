"""The tasks that empty the queues of async callbacks and sinks.

An exception raised by one of them is logged and counted; it does not affect the others.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING

import anyio
import structlog

from tapeloom.errors import QueueOverflow, SinkError, TapeloomError
from tapeloom.events import Event

from .callbacks import Callback, report_failure
from .queues import Queue

if TYPE_CHECKING:
    from .sinks.runner import SinkRunner

log = structlog.get_logger()


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

    async def run_sink(self, sink: SinkRunner, queue: Queue) -> None:
        """Have the events of *queue* written until it ends; then close the sink."""
        try:
            await sink.run(partial(self._get_batch, queue))
        except SinkError as error:
            queue.close()
            lost = sum(map(len, iter(queue.get_nowait, [])))
            self._counters["sink_errors"] += 1
            log.error("sink_disabled", sink=queue.name, reason=str(error), events_lost=lost)
        finally:
            if lost := await sink.close():
                log.error("sink_incomplete", sink=queue.name, events_lost=lost)
        self._task_ended()

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
