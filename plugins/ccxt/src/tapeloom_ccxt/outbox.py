"""What waits between those who watch, who never wait, and the consumer, who may be slow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from tapeloom.events import Event

__all__ = ["Outbox"]

_FULL = 50_000  #: events that may wait


class Outbox:
    """Events on their way out, in order. All that came while one batch went is the next one."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._more, self._room = anyio.Event(), anyio.Event()
        self._closed = False

    def open(self) -> None:
        """Begin again."""
        self._closed = False

    def close(self) -> None:
        """Let `empty` return when all is out."""
        self._closed = True
        self._more.set()

    def put(self, events: list[Event]) -> None:
        """Add a batch; it returns at once."""
        self._events += events
        self._more.set()

    async def room(self) -> None:
        """Wait while too much waits."""
        while len(self._events) > _FULL:
            await self._room.wait()

    async def empty(self, deliver: Callable[[list[Event]], Awaitable[None]]) -> None:
        """Deliver what comes, until closed and empty."""
        while self._events or not self._closed:
            if not self._events:
                self._more = anyio.Event()
                await self._more.wait()
                continue
            batch, self._events = self._events, []
            self._room.set()
            self._room = anyio.Event()
            await deliver(batch)
