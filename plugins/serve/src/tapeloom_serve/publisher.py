"""Brings batches from the thread of a stream to the hub of a server, which has a loop of its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from tapeloom import Event, Queue, QueueSpec, Reject, Status, Trade
from tapeloom.plugin import TradeBatch

from .hub import Hub

if TYPE_CHECKING:
    from .server import ServerThread

__all__ = ["Publisher"]

#: Seconds for which batches are collected: to wake the loop costs more than to publish a batch.
_COLLECT_SECONDS = 0.005
#: Events that wait for the loop; if there are more, the oldest are dropped, and a Gap says so.
_SIZE = 100_000
#: Events that tell nothing to clients that join later.
_STATELESS = frozenset({Trade, Status, Reject})


class Publisher:
    """Takes batches in one thread; the hub publishes them in the loop of *server* a moment later.

    Trades that nobody wants to have are left out at once: a hub without clients keeps none.
    """

    def __init__(self, hub: Hub, server: ServerThread) -> None:
        self._hub = hub
        self._server = server
        self._queue = Queue(QueueSpec(_SIZE, "drop_oldest"), None, "hub")
        self._lock = threading.Lock()  # of the queue
        self._is_scheduled = False

    def publish(self, events: list[Event]) -> None:
        """Have a batch published. Returns at once."""
        if not self._hub.is_in_use and (
            type(events) is TradeBatch or set(map(type, events)) <= _STATELESS
        ):
            return
        with self._lock:
            self._queue.put_nowait(events)
            if self._is_scheduled:
                return
            self._is_scheduled = True
        self._server.call_later(_COLLECT_SECONDS, self._publish_next)

    def flush(self) -> None:
        """Publish what waits now; in the loop of the server."""
        while self._take():
            pass

    def _publish_next(self) -> None:
        """Publish a batch, and let the loop do something else before the next one."""
        if self._take():
            self._server.call_later(0, self._publish_next)

    def _take(self) -> bool:
        with self._lock:
            events = self._queue.get_nowait()
            self._is_scheduled = bool(events)
        if events:
            self._hub.publish(events)
        return bool(events)
