"""The queue between the watching tasks, which never wait, and the delivery to core, which may."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from tapeloom.events import Event

__all__ = ["Outbox"]

#: Number of events above which `wait_for_room` waits: some seconds of a busy market.
_MAX_EVENTS = 50_000


class Outbox:
    """Events that wait for delivery, in order. Events that come during a delivery are the next batch."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._not_empty, self._not_full = anyio.Event(), anyio.Event()
        self._closed = False

    def open(self) -> None:
        """Reopen a closed outbox."""
        self._closed = False

    def close(self) -> None:
        """Let `deliver_all` return once everything is delivered."""
        self._closed = True
        self._not_empty.set()

    def push(self, events: list[Event]) -> None:
        """Add events without waiting."""
        self._events += events
        self._not_empty.set()

    async def wait_for_room(self) -> None:
        """Wait while too many events wait for delivery."""
        while len(self._events) > _MAX_EVENTS:
            await self._not_full.wait()

    async def deliver_all(self, deliver: Callable[[list[Event]], Awaitable[None]]) -> None:
        """Deliver all events until the outbox is closed and empty."""
        while self._events or not self._closed:
            if not self._events:
                self._not_empty = anyio.Event()
                await self._not_empty.wait()
                continue
            batch, self._events = self._events, []
            self._not_full.set()
            self._not_full = anyio.Event()
            await deliver(batch)
