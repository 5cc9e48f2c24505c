"""TCP on asyncio, read from within the turn of the loop that finds something to read.

A stream of anyio wakes a task for each read, and tells the loop twice to watch its socket. For a lone
frame that is more work than the frame. Here whoever takes what comes is called at once, and the loop
goes on watching. On other loops there are anyio's own streams, and on that of Windows, which watches
no sockets for others.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - this room is for that loop
import socket
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel

from tapeloom.plugin import OnRead


def possible() -> bool:
    """Return whether the running loop of asyncio watches sockets for others."""
    watch = getattr(type(asyncio.get_running_loop()), "add_reader", None)
    return watch is not asyncio.AbstractEventLoop.add_reader


class Direct(anyio.abc.ByteStream):
    """A connected socket; either `receive` is called, or `push_to`."""

    def __init__(self, connected: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = connected
        self._turn = anyio.Lock()  # to send
        self._size = _USUAL
        self._waiter: asyncio.Future[None] | None = None
        self._take: OnRead[bytes] = _nobody
        self._rest: Awaitable[None] | None = None  # what `_take` left to be awaited
        self._error: Exception | None = None
        self._ended = False

    @property
    def extra_attributes(self) -> Any:
        """The socket, and its addresses."""
        attributes = anyio.abc.SocketAttribute
        return {
            attributes.raw_socket: lambda: self._socket,
            attributes.local_address: lambda: self._socket.getsockname(),
            attributes.remote_address: lambda: self._socket.getpeername(),
        }

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return what is there, or wait for it.

        Raises EndOfStream at the end, OSError where the connection has broken.
        """
        await anyio.lowlevel.checkpoint()
        while True:
            try:
                data = self._socket.recv(max_bytes)
            except (BlockingIOError, InterruptedError):
                await self._readable()
                continue
            if not data:
                raise anyio.EndOfStream
            return data

    async def _readable(self) -> None:
        waiter = self._loop.create_future()
        self._loop.add_reader(self._socket, _answer, waiter)
        try:
            await waiter
        finally:
            self._watch_no_more()

    def _watch_no_more(self) -> None:
        if self._socket.fileno() >= 0:  # closing has done it already
            self._loop.remove_reader(self._socket)

    async def push_to(self, take: OnRead[bytes]) -> None:
        """Call *take* with what each read brings, from within the read, until the end.

        Where it returns an awaitable, that is awaited before anything more is read. Raises what
        *take* raises, and OSError where the connection has broken.
        """
        await anyio.lowlevel.checkpoint()
        self._take = take
        while not self._ended:
            self._waiter = self._loop.create_future()
            self._loop.add_reader(self._socket, self._ready)
            try:
                await self._waiter
            finally:
                self._watch_no_more()
                rest, self._rest = self._rest, None
                if rest is not None:
                    await rest
        if self._error is not None:
            raise self._error

    def _ready(self) -> None:
        """Read once, and hand over: the hot path."""
        try:
            data = self._socket.recv(self._size)
            # A large piece of memory is dear to get, and most reads are small.
            self._size = _LARGE if len(data) == self._size else _USUAL
            if data:
                rest = self._take(data)
                if rest is None:
                    return
                self._rest = rest
            else:
                self._ended = True
        except (BlockingIOError, InterruptedError):
            return
        except Exception as error:
            self._error, self._ended = error, True
        self._watch_no_more()
        assert self._waiter is not None
        _answer(self._waiter)

    async def send(self, item: bytes) -> None:
        """Send all of it. Raises OSError."""
        async with self._turn:
            if self._socket.fileno() < 0:
                raise anyio.ClosedResourceError
            await self._loop.sock_sendall(self._socket, item)

    async def send_eof(self) -> None:
        """Send nothing more."""
        self._socket.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        """Close at once; whoever reads finds the end."""
        if self._socket.fileno() < 0:
            return
        self._watch_no_more()
        with suppress(OSError):
            await self.send_eof()
            # With something unread the system would reset the connection, and the peer might lose what
            # it was told last.
            for _ in range(_UNREAD):
                if not self._socket.recv(_LARGE):
                    break
        self._socket.close()
        if self._waiter is not None:
            self._error, self._ended = self._error or anyio.ClosedResourceError(), True
            _answer(self._waiter)
        await anyio.lowlevel.checkpoint()


def _nobody(data: bytes) -> None:
    raise AssertionError("nobody takes what comes")


def _answer(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def connect(host: str, port: int, local: str | None = None) -> Direct:
    """Connect to the first address of *host* that answers; raises OSError where none does.

    They are tried in turn, the families mixed, each some time after the one before (RFC 8305).
    """
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    first = [one for one in found if one[0] == found[0][0]]
    other = [one for one in found if one[0] != found[0][0]]
    mixed = sorted([*enumerate(first), *enumerate(other)], key=lambda one: one[0])
    errors: list[OSError] = []
    connected: list[socket.socket] = []

    async def attempt(family: int, address: Any, over: anyio.Event) -> None:
        one = socket.socket(family, socket.SOCK_STREAM)
        try:
            one.setblocking(False)
            if local is not None:
                one.bind((local, 0))
            await asyncio.get_running_loop().sock_connect(one, address)
        except OSError as error:
            errors.append(error)
            one.close()
        except BaseException:
            one.close()
            raise
        else:
            connected.append(one)
            tasks.cancel_scope.cancel()
        over.set()

    async with anyio.create_task_group() as tasks:
        for _, (family, _, _, _, address) in mixed:
            over = anyio.Event()
            tasks.start_soon(attempt, family, address, over)
            with anyio.move_on_after(_STAGGER):
                await over.wait()
    for late in connected[1:]:
        late.close()
    if not connected:
        raise errors[0]
    connected[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Direct(connected[0])


#: Bytes that a read may bring, at first, and after one that was filled.
_USUAL, _LARGE = 64 * 1024, 128 * 1024
#: So many reads at most are thrown away at the end.
_UNREAD = 64
#: Seconds after which the next address is tried as well.
_STAGGER = 0.25
