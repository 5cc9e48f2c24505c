"""Plain functions as consumers: each is called while the events are delivered, without a queue."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any

import structlog

from tapeloom.events import Event
from tapeloom.plugin import Cursor

from .queues import Queue

if TYPE_CHECKING:
    from tapeloom._config import QueueSpec


log = structlog.get_logger()

Callback = Callable[[Any], Awaitable[None] | None]


def report_failure(name: str, event: Event, error: Exception, counters: Counter[str]) -> None:
    """Log and count an exception that a callback raised for *event*."""
    counters["callback_errors"] += 1
    log.error("callback_failed", callback=name, failed_at=repr(event), exc_info=error)


class Callbacks(Queue):
    """Calls a plain function with each event at once: no event is queued or dropped.

    If the function returns an awaitable, this becomes an ordinary queue: *start_task* is called with
    the event and the awaitable, and must start a task that awaits it and then empties the queue.
    """

    def __init__(
        self,
        callback: Callback,
        spec: QueueSpec,
        types: Collection[type[Any]] | None,
        name: str,
        counters: Counter[str],
        start_task: Callable[[Queue, tuple[Event, Awaitable[None]]], None],
    ) -> None:
        super().__init__(spec, types, name, has_task=True, counters=counters)
        self._callback = callback
        self._start_task = start_task
        self._is_async = False  # the function has returned an awaitable

    def put_nowait(self, events: list[Event], cursor: Cursor | None = None) -> bool:
        """Call the function with each event of its types; return True unless the queue is full."""
        if self._is_async:
            return super().put_nowait(events)
        if self.closed:
            return True
        callback = self._callback
        events = self.select(events)
        for count, event in enumerate(events, 1):
            try:
                result = callback(event)
            except Exception as error:
                report_failure(self.name, event, error, self._counters)
                continue
            if result is not None and inspect.isawaitable(result):
                self._is_async = True
                self.received += count
                self._start_task(self, (event, result))
                return super().put_nowait(events[count:])
        self.received += len(events)
        return True
