"""The receiving ends of a stream: events one by one, or in batches."""

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

    It is attached from the moment it is made until it is closed, garbage collected, or the stream
    ends. Iteration raises what ended the stream, after everything that came before.
    """

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self._batch: list[Event] = []
        self._next = 0

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

        Without *size*, each list is what arrived together. With it, a list has at most *size*
        events, and fewer only if *within* seconds have passed since its first, or at the end.
        """
        if size is not None and size < 1:
            raise ValueError(f"size is {size}; expected a whole number of at least 1, or None")
        return Batches(self, size, within)

    def batch(self) -> Awaitable[list[E]]:
        """Return what is waiting, or wait for more; an empty list at the end."""
        rest = self._rest() if self._next < len(self._batch) else self.queue.get()
        return cast("Awaitable[list[E]]", rest)

    async def _rest(self) -> list[Event]:
        """Return what has been taken from the queue and not been given yet."""
        rest = self._batch[self._next :]
        self._next = len(self._batch)
        return rest

    def push_back(self, events: list[E]) -> None:
        """Put *events* before whatever comes next."""
        self._batch = [*events, *self._batch[self._next :]]
        self._next = 0

    def close(self) -> None:
        """Detach from the stream; what is queued is forgotten."""
        self.queue.close()
        self._batch, self._next = [], 0
        while self.queue.get_nowait():
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Nobody will ever read this queue again: it must not hold up the feed.
        self.queue.close()


class Batches(Generic[E]):
    """Lists of events, by size and time."""

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
            pass  # the stream has failed: the next call says so, after all that came before
        except BaseException:
            self._consumer.push_back(collected)  # cancelled: nothing is lost by it
            raise
        if len(collected) > self._size:
            self._consumer.push_back(collected[self._size :])
            collected = collected[: self._size]
        return collected
