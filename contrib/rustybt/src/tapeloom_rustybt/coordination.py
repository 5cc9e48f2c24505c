"""What the guide does with adapters: several at once, retries, subscribing in batches, shutting down."""

from __future__ import annotations

# A reconnection outlives a `get` that has been given up waiting for: it is a task of its own.
import asyncio  # noqa: TID251
import inspect
import random
import signal
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol, Self

import anyio
import structlog
from tapeloom.errors import FeedError, TapeloomError, unwrap_single

from .bar import OHLCVBar
from .processing import Readable
from .queue import StreamEnded

__all__ = [
    "Adapter",
    "RobustWebSocketAdapter",
    "StreamManager",
    "batch_subscribe",
    "graceful_stream",
]

log = structlog.get_logger()


class Adapter(Protocol):
    """What the guide's programs ask of an adapter."""

    async def connect(self) -> None:
        """Open the connection."""
        ...

    async def subscribe(self, symbols: list[str]) -> None:
        """Subscribe to symbols."""
        ...

    async def stream(self) -> Any:
        """Return a queue of bars."""
        ...

    async def disconnect(self) -> None:
        """Close the connection."""
        ...


class StreamManager:
    """Several streams, by name. Leaving it as a context closes them all."""

    def __init__(self) -> None:
        self.adapters: dict[str, Adapter] = {}
        self.queues: dict[str, Readable] = {}

    async def add_stream(self, name: str, adapter: Adapter, symbols: list[str]) -> None:
        """Connect *adapter*, subscribe it to *symbols*, and keep its queue under *name*.

        Raises ValueError where there is a stream of that name; and what the adapter raises, which is
        then disconnected.
        """
        if name in self.adapters:
            raise ValueError(
                f"there is a stream {name!r} already. Close it first: close({name!r})."
            )
        try:
            await adapter.connect()
            await adapter.subscribe(symbols)
            queue = await adapter.stream()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await adapter.disconnect()
            raise
        self.adapters[name], self.queues[name] = adapter, queue

    async def get_next(self, name: str) -> OHLCVBar:
        """Return the next bar of the stream *name*. Raises KeyError where there is none."""
        return await self.queues[name].get()

    async def close(self, name: str) -> None:
        """Close one stream and forget it. Raises KeyError where there is none."""
        adapter = self.adapters.pop(name)
        del self.queues[name]
        await adapter.disconnect()

    async def close_all(self) -> None:
        """Close every stream and forget it; one that fails keeps no other open.

        Raises the failure of the first that failed.
        """
        failures: list[Exception] = []
        for name in list(self.adapters):
            try:
                await self.close(name)
            except Exception as failure:
                failures.append(failure)
        if failures:
            raise failures[0]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close_all()


class RobustWebSocketAdapter:
    """Tries again where *adapter* cannot connect, or where its stream has come to an end by failure.

    The adapters of this package make a lost connection anew by themselves, with their subscriptions,
    for as long as it takes. Here is what is left: the first connection, and a feed that has given up.
    Waits double from *first* seconds up to *cap*, each a random share of that.
    """

    def __init__(
        self, adapter: Adapter, max_retries: int = 5, *, first: float = 1.0, cap: float = 60.0
    ) -> None:
        if max_retries < 1:
            raise ValueError(f"max_retries is {max_retries}; expected 1 or more")
        self.adapter = adapter
        self.max_retries = max_retries
        self._first, self._cap = first, cap

    async def connect_with_retry(self) -> None:
        """Connect, trying *max_retries* times. Raises what the last try has failed with.

        What trying again cannot mend (a mistake in the stack, a plugin that is missing, keys that
        are refused) is raised at once.
        """
        for attempt in range(self.max_retries):
            try:
                await self.adapter.connect()
            except Exception as error:
                hopeless = isinstance(error, TapeloomError) and not _passing(error)
                if hopeless or attempt == self.max_retries - 1:
                    raise
                delay = random.uniform(0, min(self._cap, self._first * 2**attempt))
                log.warning(
                    "connect_failed", attempt=attempt + 1, delay=round(delay, 2), reason=str(error)
                )
                await anyio.sleep(delay)
            else:
                return

    async def stream_with_reconnect(self) -> Readable:
        """Connect, and return a queue that goes on over failures of the feed.

        Its `get` raises what cannot be mended, and StreamEnded after a `disconnect`.
        """
        await self.connect_with_retry()
        return _LastingQueue(self, await self.adapter.stream())

    async def again(self) -> Readable:
        """Connect anew after a failure; return the new queue."""
        await self.adapter.disconnect()
        await self.connect_with_retry()
        queue: Readable = await self.adapter.stream()
        return queue


class _LastingQueue:
    """Reads one queue after another: the next one where the last has failed."""

    def __init__(self, robust: RobustWebSocketAdapter, queue: Readable) -> None:
        self._robust, self._queue = robust, queue
        self._reviving: asyncio.Task[Readable] | None = None

    async def get(self) -> OHLCVBar:
        """Return the next bar, waiting for it."""
        while True:
            if self._reviving is None:
                try:
                    return await self._queue.get()
                except TapeloomError as error:
                    if not _passing(error):
                        raise
                    log.warning("stream_failed", reason=str(error))
                self._reviving = asyncio.create_task(self._robust.again())
            # Whoever gives up waiting for a bar must not make the reconnection begin anew each time.
            try:
                self._queue = await asyncio.shield(self._reviving)
            finally:
                if self._reviving.done():
                    self._reviving = None


def _passing(error: TapeloomError) -> bool:
    return isinstance(error, FeedError) and error.retryable


async def batch_subscribe(
    adapter: Adapter, symbols: Sequence[str], batch_size: int = 5, *, pause: float = 0.0
) -> None:
    """Subscribe to *symbols*, *batch_size* at a time.

    The pace that a venue allows is kept by tapeloom, message by message, so nothing sleeps here;
    *pause* is for adapters of other makes, in seconds between two batches.
    """
    for start in range(0, len(symbols), batch_size):
        if start and pause:
            await anyio.sleep(pause)
        await adapter.subscribe(list(symbols[start : start + batch_size]))


async def graceful_stream(
    adapter: Adapter,
    process_bar: Callable[[OHLCVBar], Awaitable[None] | Any],
    symbols: Iterable[str] = (),
) -> None:
    """Hand every bar to *process_bar* until SIGINT or SIGTERM, or until the stream ends.

    At the first signal nothing more is read, what was read is still processed, and the adapter is
    disconnected; a second signal stops at once. Runs in the main thread only, like all signals.
    """
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_disconnect_when_told, adapter, tasks.cancel_scope)
            await _process_all(adapter, process_bar, list(symbols))
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise unwrap_single(group) from None


async def _process_all(
    adapter: Adapter, process_bar: Callable[[OHLCVBar], Awaitable[None] | Any], symbols: list[str]
) -> None:
    try:
        await adapter.connect()
        if symbols:
            await adapter.subscribe(symbols)
        queue = await adapter.stream()
        while True:
            answer = process_bar(await queue.get())
            if inspect.isawaitable(answer):
                await answer
    except StreamEnded:
        pass
    finally:
        with anyio.CancelScope(shield=True):
            await adapter.disconnect()


async def _disconnect_when_told(adapter: Adapter, scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            log.info("shutting_down", signal=number.name)
            break
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(adapter.disconnect)
            async for _ in signals:
                scope.cancel()
