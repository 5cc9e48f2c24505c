"""The queue that `stream()` returns: the guide's calls on a consumer of tapeloom's."""

from __future__ import annotations

# The guide's queue is one of asyncio's: its exceptions are promised too.
import asyncio  # noqa: TID251
from collections import deque
from typing import TYPE_CHECKING, Self

from tapeloom import Bar, Trade
from tapeloom.errors import TapeloomError

from .bar import OHLCVBar

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tapeloom import Consumer, Event

__all__ = ["BarQueue", "StreamEnded"]


class StreamEnded(TapeloomError):
    """Everything has been taken, and nothing more will come: the adapter was disconnected."""


class BarQueue:
    """Closed bars, in the order in which they came; read like an `asyncio.Queue`.

    It is bounded, with the policy that the adapter was given. Nothing else can put into it. `get`
    raises what ended the feed, or StreamEnded after `disconnect`, in both cases after everything
    that came before. A `get` that is cancelled or timed out loses nothing.
    """

    def __init__(self, consumer: Consumer[Event]) -> None:
        self._consumer = consumer
        self._ready: deque[OHLCVBar] = deque()

    async def get(self) -> OHLCVBar:
        """Return the next bar, waiting for it."""
        while not self._ready:
            events = await self._consumer.batch()
            if not events:
                raise StreamEnded("the adapter was disconnected. Call connect() to go on.")
            self._take(events)
        return self._ready.popleft()

    def get_nowait(self) -> OHLCVBar:
        """Return the next bar. Raises asyncio.QueueEmpty where none is waiting."""
        while not self._ready:
            events = self._consumer.queue.get_nowait()
            if not events:
                raise asyncio.QueueEmpty
            self._take(events)
        return self._ready.popleft()

    def _take(self, events: Iterable[Event]) -> None:
        self._ready.extend(
            OHLCVBar.of(event)
            for event in events
            if (type(event) is Bar and event.closed)
            or (type(event) is Trade and event.origin != "history")
        )

    def qsize(self) -> int:
        """Return how many wait: bars, and events that may turn out to be none."""
        return len(self._ready) + self._consumer.queue.count

    def empty(self) -> bool:
        """Tell whether nothing waits."""
        return not self.qsize()

    def full(self) -> bool:
        """Tell whether there is no room for one more."""
        return self.qsize() >= self.maxsize

    @property
    def maxsize(self) -> int:
        """How many may wait."""
        return self._consumer.queue.size

    @property
    def dropped(self) -> int:
        """How many were lost because the reader fell behind, by the queue's policy."""
        return self._consumer.queue.dropped

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> OHLCVBar:
        try:
            return await self.get()
        except StreamEnded:
            raise StopAsyncIteration from None
