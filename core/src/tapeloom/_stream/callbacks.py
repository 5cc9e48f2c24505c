"""Plain functions as consumers: each is called in the turn in which something came."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any

import structlog

from tapeloom.events import Event

from .queues import Queue

if TYPE_CHECKING:
    from tapeloom._config import QueueSpec


log = structlog.get_logger()

Callback = Callable[[Any], Awaitable[None] | None]


def failed(name: str, event: Event, error: Exception, counters: Counter[str]) -> None:
    """Log and count what a callback has raised at *event*."""
    counters["callback_errors"] += 1
    log.error("callback_failed", callback=name, failed_at=repr(event), exc_info=error)


class Callbacks(Queue):
    """Calls a plain function with what is offered, at once: nothing is queued, and nothing dropped.

    Should the function return an awaitable, this is a queue like any other from then on: *pump* is
    given the event and the awaitable, and has to empty it.
    """

    def __init__(
        self,
        callback: Callback,
        spec: QueueSpec,
        types: Collection[type[Any]] | None,
        name: str,
        counters: Counter[str],
        pump: Callable[[Queue, tuple[Event, Awaitable[None]]], None],
    ) -> None:
        super().__init__(spec, types, name, pumped=True, counters=counters)
        self._callback = callback
        self._pump = pump
        self._queues = False

    def offer(self, events: list[Event]) -> bool:
        """Call the function with each event that it wants; always True, as long as it is plain."""
        if self._queues:
            return super().offer(events)
        if self.closed:
            return True
        callback = self._callback
        events = self.wanted(events)
        for place, event in enumerate(events, 1):
            try:
                answer = callback(event)
            except Exception as error:
                failed(self.name, event, error, self._counters)
                continue
            if answer is not None and inspect.isawaitable(answer):
                self._queues = True
                self.taken += place
                self._pump(self, (event, answer))
                return super().offer(events[place:])
        self.taken += len(events)
        return True
