"""The queue that `stream()` returns: a consumer of tapeloom with the guide's calls."""

from __future__ import annotations

# The guide's queue is an `asyncio.Queue`, so `get_nowait` has to raise asyncio's exception.
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
    """The queue is empty and the adapter was disconnected, so no more bars will come."""


class BarQueue:
    """Closed bars in order of their arrival, read like an `asyncio.Queue`.

    The queue is bounded, with the policy that the adapter was given; only the adapter puts bars into
    it. After the last bar, `get` raises the error that ended the feed, or StreamEnded after
    `disconnect`. A `get` that is cancelled or times out loses no bar.
    """

    def __init__(self, consumer: Consumer[Event]) -> None:
        self._consumer = consumer
        self._bars: deque[OHLCVBar] = deque()

    async def get(self) -> OHLCVBar:
        """Return the next bar, waiting for it."""
        while not self._bars:
            events = await self._consumer.batch()
            if not events:
                raise StreamEnded("the adapter was disconnected. Call connect() to continue.")
            self._add(events)
        return self._bars.popleft()

    def get_nowait(self) -> OHLCVBar:
        """Return the next bar. Raises asyncio.QueueEmpty if there is none."""
        while not self._bars:
            events = self._consumer.queue.get_nowait()
            if not events:
                raise asyncio.QueueEmpty
            self._add(events)
        return self._bars.popleft()

    def _add(self, events: Iterable[Event]) -> None:
        self._bars.extend(
            OHLCVBar.of(event)
            for event in events
            if (type(event) is Bar and event.closed)
            or (type(event) is Trade and event.origin != "history")
        )

    def qsize(self) -> int:
        """Return the number of waiting bars, and of events that may not become a bar."""
        return len(self._bars) + self._consumer.queue.count

    def empty(self) -> bool:
        """Return whether the queue is empty."""
        return not self.qsize()

    def full(self) -> bool:
        """Return whether the queue is full."""
        return self.qsize() >= self.maxsize

    @property
    def maxsize(self) -> int:
        """The most events that may wait."""
        return self._consumer.queue.size

    @property
    def dropped(self) -> int:
        """The number of events that the queue's policy has dropped because the reader was too slow."""
        return self._consumer.queue.dropped

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> OHLCVBar:
        try:
            return await self.get()
        except StreamEnded:
            raise StopAsyncIteration from None
