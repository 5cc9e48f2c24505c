"""The guide's use of adapters: several streams, retries, subscribing in batches, shutdown."""

from __future__ import annotations

# A reconnection is a task, because it must continue when the `get` that started it is cancelled.
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
    """The calls that the guide's programs make on an adapter."""

    async def connect(self) -> None:
        """Open the stream from the venue."""
        ...

    async def subscribe(self, symbols: list[str]) -> None:
        """Subscribe to symbols of the venue."""
        ...

    async def stream(self) -> Any:
        """Return the queue of the adapter's bars, the same until `disconnect`."""
        ...

    async def disconnect(self) -> None:
        """Close the stream from the venue; its queue ends after the bars that were read."""
        ...


class StreamManager:
    """Several streams by name. As a context manager, it closes all of them at the end."""

    def __init__(self) -> None:
        self.adapters: dict[str, Adapter] = {}
        self.queues: dict[str, Readable] = {}

    async def add_stream(self, name: str, adapter: Adapter, symbols: list[str]) -> None:
        """Connect *adapter*, subscribe it to *symbols*, and keep its queue under *name*.

        Raises ValueError if there is a stream of that name. After an error of the adapter, the adapter
        is disconnected and the error raised.
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
        """Return the next bar of the stream *name*. Raises KeyError if there is none."""
        return await self.queues[name].get()

    async def close(self, name: str) -> None:
        """Close and remove a stream. Raises KeyError if there is none."""
        adapter = self.adapters.pop(name)
        del self.queues[name]
        await adapter.disconnect()

    async def close_all(self) -> None:
        """Close and remove every stream, even if closing some of them fails.

        Raises the first error.
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
    """Connects *adapter* again if it cannot connect, or if its stream has failed.

    The adapters of this package restore a lost connection with its subscriptions themselves, without
    a limit of attempts. This class retries the first connection, and a feed that has failed. Delays
    double from *first* seconds up to *cap*; each is a random share of that (full jitter).
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
        """Connect with at most *max_retries* attempts. Raises the error of the last one.

        Errors that a retry cannot change (a mistake in the stack, a missing plugin, refused keys) are
        raised at once.
        """
        for attempt in range(self.max_retries):
            try:
                await self.adapter.connect()
            except Exception as error:
                permanent = isinstance(error, TapeloomError) and not _is_retryable(error)
                if permanent or attempt == self.max_retries - 1:
                    raise
                delay = random.uniform(0, min(self._cap, self._first * 2**attempt))
                log.warning(
                    "connect_failed", attempt=attempt + 1, delay=round(delay, 2), reason=str(error)
                )
                await anyio.sleep(delay)
            else:
                return

    async def stream_with_reconnect(self) -> Readable:
        """Connect, and return a queue that reconnects after failures of the feed.

        Its `get` raises errors that a retry cannot change, and StreamEnded after a `disconnect`.
        """
        await self.connect_with_retry()
        return _ReconnectingQueue(self, await self.adapter.stream())

    async def reconnect(self) -> Readable:
        """Disconnect and connect again; return the new queue."""
        await self.adapter.disconnect()
        await self.connect_with_retry()
        queue: Readable = await self.adapter.stream()
        return queue


class _ReconnectingQueue:
    """Reads the adapter's queue, and after a failure the queue of the next connection."""

    def __init__(self, robust: RobustWebSocketAdapter, queue: Readable) -> None:
        self._adapter, self._queue = robust, queue
        self._reconnecting: asyncio.Task[Readable] | None = None

    async def get(self) -> OHLCVBar:
        """Return the next bar, waiting for it."""
        while True:
            if self._reconnecting is None:
                try:
                    return await self._queue.get()
                except TapeloomError as error:
                    if not _is_retryable(error):
                        raise
                    log.warning("stream_failed", reason=str(error))
                self._reconnecting = asyncio.create_task(self._adapter.reconnect())
            # The shield keeps a cancelled `get` from cancelling the reconnection.
            try:
                self._queue = await asyncio.shield(self._reconnecting)
            finally:
                if self._reconnecting.done():
                    self._reconnecting = None


def _is_retryable(error: TapeloomError) -> bool:
    return isinstance(error, FeedError) and error.retryable


async def batch_subscribe(
    adapter: Adapter, symbols: Sequence[str], batch_size: int = 5, *, pause: float = 0.0
) -> None:
    """Subscribe to *symbols*, *batch_size* at a time.

    tapeloom keeps the venue's rate limits for each message, so no pause is needed. *pause*, in seconds
    between two batches, is for other adapters.
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
    """Call *process_bar* with every bar until SIGINT or SIGTERM, or until the stream ends.

    At the first signal, the adapter is disconnected, and bars that were read before are still
    processed. A second signal stops at once. Runs in the main thread only, because of the signals.
    """
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_disconnect_on_signal, adapter, tasks.cancel_scope)
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
            result = process_bar(await queue.get())
            if inspect.isawaitable(result):
                await result
    except StreamEnded:
        pass
    finally:
        with anyio.CancelScope(shield=True):
            await adapter.disconnect()


async def _disconnect_on_signal(adapter: Adapter, scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            log.info("shutting_down", signal=number.name)
            break
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(adapter.disconnect)
            async for _ in signals:
                scope.cancel()
