"""The async iterators with which users receive events: one at a time, or in batches."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Generic, Self, TypeVar, cast

import anyio

from tapeloom.errors import TapeloomError
from tapeloom.events import Event

if TYPE_CHECKING:
    from .queues import Queue


E = TypeVar("E", bound=Event)


class Consumer(Generic[E]):
    """An async iterator over the events of a stream, with a bounded queue of its own.

    It receives events from its creation until it is closed, garbage collected, or the stream ends.
    Iteration raises the error that ended the stream, after all events before it.
    """

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self._batch: list[Event] = []  # taken from the queue
        self._next = 0  # index in `_batch` of the next event

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E:
        if self._next == len(self._batch):
            self._batch = await self.queue.get()
            self._next = 0
            if not self._batch:
                raise StopAsyncIteration
        event = self._batch[self._next]
        self._next += 1
        return cast("E", event)

    def batches(self, size: int | None = None, within: float | None = None) -> Batches[E]:
        """Return an async iterator over lists of events.

        Without *size*, each list holds the events that arrived together. With *size*, a list holds
        that many events, or fewer if *within* seconds have passed since the first, or at the end.
        """
        if size is not None and size < 1:
            raise ValueError(f"size is {size}; expected a whole number of at least 1, or None")
        return Batches(self, size, within)

    def batch(self) -> Awaitable[list[E]]:
        """Return the events waiting, or wait for some; an empty list at the end of the stream."""
        rest = self._rest() if self._next < len(self._batch) else self.queue.get()
        return cast("Awaitable[list[E]]", rest)

    async def _rest(self) -> list[Event]:
        """Return the events of the current batch that were not returned yet."""
        rest = self._batch[self._next :]
        self._next = len(self._batch)
        return rest

    def push_back(self, events: list[E]) -> None:
        """Return *events* again, before any others."""
        self._batch = [*events, *self._batch[self._next :]]
        self._next = 0

    def close(self) -> None:
        """Detach from the stream and discard the queued events."""
        self.queue.close()
        self._batch, self._next = [], 0
        while self.queue.get_nowait():
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Nothing reads this queue any more; with the policy "block" it would stop the feed.
        self.queue.close()


class Batches(Generic[E]):
    """An async iterator over lists of events, limited by size and time; see `Consumer.batches`."""

    def __init__(self, consumer: Consumer[E], size: int | None, within: float | None) -> None:
        self._consumer = consumer
        self._size = size
        self._within = within

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[E]:
        first = await self._consumer.batch()
        if not first:
            raise StopAsyncIteration
        if self._size is None:
            return first
        collected = first
        try:
            with anyio.move_on_after(self._within):
                while len(collected) < self._size and (more := await self._consumer.batch()):
                    collected = collected + more
        except TapeloomError:
            pass  # the next call raises it, after these events
        except BaseException:
            self._consumer.push_back(collected)  # no event is lost when this is cancelled
            raise
        if len(collected) > self._size:
            self._consumer.push_back(collected[self._size :])
            collected = collected[: self._size]
        return collected
