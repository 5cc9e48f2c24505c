"""TCP on asyncio that is read from the event loop's reader callback.

An anyio stream wakes a task for each read and registers the socket with the loop twice per read. For a
read of a single frame that costs more than parsing the frame. Here the loop keeps watching the socket
and the consumer's callback runs inside the reader callback. Other event loops use anyio's own streams,
and so does the Windows proactor loop, which has no `add_reader`.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - this module is written for asyncio
import socket
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel

from tapeloom.plugin import OnRead

#: Bytes per read: usually, and after a read that filled its buffer. Large buffers are slow to allocate.
_READ_BYTES, _LARGE_READ_BYTES = 64 * 1024, 128 * 1024
#: Reads that are discarded on close, at most.
_MAX_DISCARDED_READS = 64
#: Seconds before the next address is tried in parallel: RFC 8305's connection attempt delay.
_ATTEMPT_DELAY_SECONDS = 0.25


def is_supported() -> bool:
    """Return whether the running asyncio loop implements `add_reader`."""
    method = getattr(type(asyncio.get_running_loop()), "add_reader", None)
    return method is not asyncio.AbstractEventLoop.add_reader


class AsyncioSocket(anyio.abc.ByteStream):
    """A connected socket. Call either `receive` or `push_to`, not both at a time."""

    def __init__(self, connected: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = connected
        self._send_lock = anyio.Lock()
        self._read_bytes = _READ_BYTES
        self._waiter: asyncio.Future[None] | None = None
        self._on_read: OnRead[bytes] = _no_reader
        self._pending: Awaitable[None] | None = None  # returned by `_on_read`, not awaited yet
        self._error: Exception | None = None
        self._ended = False

    @property
    def extra_attributes(self) -> Any:
        """The socket and its addresses, as anyio's typed attributes."""
        attributes = anyio.abc.SocketAttribute
        return {
            attributes.raw_socket: lambda: self._socket,
            attributes.local_address: lambda: self._socket.getsockname(),
            attributes.remote_address: lambda: self._socket.getpeername(),
        }

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return the bytes available, waiting until there are some.

        Raises EndOfStream at the end of the stream, OSError when the connection is broken.
        """
        await anyio.lowlevel.checkpoint()
        while True:
            try:
                data = self._socket.recv(max_bytes)
            except (BlockingIOError, InterruptedError):
                await self._wait_readable()
                continue
            if not data:
                raise anyio.EndOfStream
            return data

    async def _wait_readable(self) -> None:
        waiter = self._loop.create_future()
        self._loop.add_reader(self._socket, _wake, waiter)
        try:
            await waiter
        finally:
            self._remove_reader()

    def _remove_reader(self) -> None:
        if self._socket.fileno() >= 0:  # `aclose` has removed it from a closed socket
            self._loop.remove_reader(self._socket)

    async def push_to(self, on_read: OnRead[bytes]) -> None:
        """Call *on_read* with the bytes of each read, inside the reader callback, until the end.

        An awaitable that it returns is awaited before the next read. Raises what *on_read* raises,
        and OSError when the connection is broken.
        """
        await anyio.lowlevel.checkpoint()
        self._on_read = on_read
        while not self._ended:
            self._waiter = self._loop.create_future()
            self._loop.add_reader(self._socket, self._ready)
            try:
                await self._waiter
            finally:
                self._remove_reader()
                pending, self._pending = self._pending, None
                if pending is not None:
                    await pending
        if self._error is not None:
            raise self._error

    def _ready(self) -> None:
        """Read once and push the bytes (hot path)."""
        try:
            data = self._socket.recv(self._read_bytes)
            self._read_bytes = _LARGE_READ_BYTES if len(data) == self._read_bytes else _READ_BYTES
            if data:
                pending = self._on_read(data)
                if pending is None:
                    return
                self._pending = pending
            else:
                self._ended = True
        except (BlockingIOError, InterruptedError):
            return
        except Exception as error:
            self._error, self._ended = error, True
        self._remove_reader()
        assert self._waiter is not None
        _wake(self._waiter)

    async def send(self, item: bytes) -> None:
        """Send all bytes. Raises OSError, or ClosedResourceError on a closed socket."""
        async with self._send_lock:
            if self._socket.fileno() < 0:
                raise anyio.ClosedResourceError
            await self._loop.sock_sendall(self._socket, item)

    async def send_eof(self) -> None:
        """Shut down the sending direction."""
        self._socket.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        """Close at once; a pending `push_to` raises ClosedResourceError."""
        if self._socket.fileno() < 0:
            return
        self._remove_reader()
        with suppress(OSError):
            await self.send_eof()
            # Closing a socket with unread data sends a reset, which can discard the last bytes that
            # we sent before the peer reads them.
            for _ in range(_MAX_DISCARDED_READS):
                if not self._socket.recv(_LARGE_READ_BYTES):
                    break
        self._socket.close()
        if self._waiter is not None:
            self._error, self._ended = self._error or anyio.ClosedResourceError(), True
            _wake(self._waiter)
        await anyio.lowlevel.checkpoint()


def _no_reader(data: bytes) -> None:
    raise AssertionError("data was pushed before `push_to` set a callback")


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def connect(host: str, port: int, local: str | None = None) -> AsyncioSocket:
    """Connect to the first address of *host* that accepts; raise OSError when none does.

    The addresses are tried one after another, alternating between the address families, each
    `_ATTEMPT_DELAY_SECONDS` after the one before (Happy Eyeballs, RFC 8305). *local* is the local
    address to bind to.
    """
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    preferred = [info for info in found if info[0] == found[0][0]]
    others = [info for info in found if info[0] != found[0][0]]
    mixed = sorted([*enumerate(preferred), *enumerate(others)], key=lambda ranked: ranked[0])
    errors: list[OSError] = []
    connected: list[socket.socket] = []

    async def attempt(family: int, address: Any, finished: anyio.Event) -> None:
        candidate = socket.socket(family, socket.SOCK_STREAM)
        try:
            candidate.setblocking(False)
            if local is not None:
                candidate.bind((local, 0))
            await asyncio.get_running_loop().sock_connect(candidate, address)
        except OSError as error:
            errors.append(error)
            candidate.close()
        except BaseException:
            candidate.close()
            raise
        else:
            connected.append(candidate)
            tasks.cancel_scope.cancel()
        finished.set()

    try:
        async with anyio.create_task_group() as tasks:
            for _, (family, _, _, _, address) in mixed:
                finished = anyio.Event()
                tasks.start_soon(attempt, family, address, finished)
                with anyio.move_on_after(_ATTEMPT_DELAY_SECONDS):
                    await finished.wait()
        if not connected:
            raise errors[0]
        connected[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return AsyncioSocket(connected.pop(0))
    finally:  # also if the caller is cancelled when a connection has just been made
        for unused in connected:
            unused.close()
