"""Faults on the wire: a proxy on this machine that forwards bytes and injects faults.

It is an HTTP proxy, so that host names and certificates stay valid; or it forwards to one address, for
clients that cannot use a proxy. The client's connection is a plain socket, so that it can be reset.
"""

from __future__ import annotations

import contextlib
import http
import re
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream

from ._faults import ON_CONNECTION, FaultInjector, FaultSchedule, InjectedFault, read_settings

__all__ = ["Relay", "relay"]

#: Bytes of one socket read.
_READ_BYTES = 65536
#: Most bytes of a request's head; a longer one is answered with 400.
_MAX_HEAD_BYTES = 65536
#: Seconds to connect to the server before the client is answered with 502.
_DIAL_TIMEOUT_SECONDS = 10.0
#: SO_LINGER with a timeout of 0: closing the socket sends RST.
_LINGER_ZERO = struct.pack("ii", 1, 0)
#: What a closed or reset connection raises.
_DISCONNECTED = (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)
_REQUEST_LINE = re.compile(
    rb"(?:CONNECT (?P<tunnel>\S+)|(?P<verb>\S+) http://(?P<host>[^/\s]+)(?P<path>\S*)) HTTP/1\.[01]\r\n"
)


class _ConnectionEnded(Exception):
    """Raised after the relay has closed the client's connection."""


class Relay:
    """A running relay: its address and the faults injected so far."""

    def __init__(
        self, listener: socket.socket, injector: FaultInjector, to: tuple[str, int] | None
    ) -> None:
        self.host, self.port = listener.getsockname()[:2]
        self.counters: Counter[str] = Counter()
        self._listener = listener
        self._injector = injector
        self._to = to

    @property
    def url(self) -> str:
        """The URL for ``[network] proxy``."""
        return f"http://{self.host}:{self.port}"

    @property
    def injected(self) -> list[InjectedFault]:
        """The faults injected so far, in order."""
        return self._injector.injected

    async def run(self) -> None:
        """Accept connections until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                await anyio.wait_readable(self._listener)
                with contextlib.suppress(OSError):
                    client, _ = self._listener.accept()
                    self.counters["connections"] += 1
                    tasks.start_soon(self._serve, client, self.counters["connections"])

    async def _serve(self, client: socket.socket, number: int) -> None:
        with contextlib.closing(client):
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _RelayedConnection(self._injector, client, number)
            try:
                await connection.run(self._to)
            except (_ConnectionEnded, *_DISCONNECTED):
                pass
            except BaseExceptionGroup as group:
                _, rest = group.split((_ConnectionEnded, *_DISCONNECTED))
                if rest is not None:
                    raise
            finally:
                self.counters["bytes"] += connection.received_bytes
                anyio.notify_closing(client)


class _RelayedConnection:
    """One client's connection through the relay."""

    def __init__(self, injector: FaultInjector, client: socket.socket, number: int) -> None:
        self.received_bytes = 0
        self._injector = injector
        self._client = client
        self._number = number
        self._reads = 0
        self._rate = 0  # bytes a second; 0: no limit
        self._open = True

    async def run(self, to: tuple[str, int] | None) -> None:
        """Forward bytes until one side closes."""
        due = self._due_faults()
        if "refuse" in due:
            self._reset()
        if "slow" in due:
            self._rate = due["slow"].rate
        first, tunnel = b"", False
        if to is None:
            to, first, tunnel = await self._read_request(due.get("answer"))
        try:
            with anyio.fail_after(_DIAL_TIMEOUT_SECONDS):
                server = await anyio.connect_tcp(*to)
        except (OSError, TimeoutError):
            await self._respond(502)
        async with server:
            if tunnel:
                await self._write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._forward_client, server, first)
                await self._forward_server(server)
                tasks.cancel_scope.cancel()

    def _due_faults(self) -> dict[str, FaultSchedule]:
        """Return the faults to inject into this connection as a whole, by kind."""
        due = {
            schedule.kind: schedule
            for schedule in self._injector.schedules_of(ON_CONNECTION)
            if schedule.is_due(self._injector.age)
        }
        for kind in due:
            self._injector.record(kind, self._number)
        return due

    async def _read_request(
        self, answer: FaultSchedule | None
    ) -> tuple[tuple[str, int], bytes, bool]:
        """Read a request; return its address, the bytes to forward, and whether it is a tunnel."""
        head = b""
        while b"\r\n\r\n" not in head:
            data = await self._read()
            head += data
            if not data or len(head) > _MAX_HEAD_BYTES:
                await self._respond(400)
        if answer is not None:
            await self._respond(answer.status)
        match = _REQUEST_LINE.match(head)
        if match is None:
            await self._respond(400)
        assert match is not None
        if match["tunnel"]:
            return _address(match["tunnel"], 443), head.partition(b"\r\n\r\n")[2], True
        line = b"%b %b HTTP/1.1\r\n" % (match["verb"], match["path"] or b"/")
        rest = head[match.end() :]
        # One request per connection: a second one would have to be parsed as well.
        fields = re.sub(rb"(?im)^connection: *keep-alive\r\n", b"Connection: close\r\n", rest)
        return _address(match["host"], 80), line + fields, False

    # -------------------------------------------------------------------------------- forwarding

    async def _forward_client(self, server: ByteStream, first: bytes) -> None:
        """Forward the client's bytes. After its EOF the server may still answer."""
        data = first
        with contextlib.suppress(*_DISCONNECTED):
            while True:
                if data and self._open:
                    await self._send_at_rate(data, server.send)
                data = await self._read()
                if not data:
                    break
        with contextlib.suppress(*_DISCONNECTED, AttributeError):
            await server.send_eof()

    async def _forward_server(self, server: ByteStream) -> None:
        """Forward the server's bytes, with faults."""
        schedules = self._injector.schedules_of(excluding=ON_CONNECTION)
        with contextlib.suppress(anyio.EndOfStream):
            while True:
                data = await server.receive(_READ_BYTES)
                self._reads += 1
                self.received_bytes += len(data)
                for schedule in schedules:
                    if schedule.is_due(self._injector.age):
                        data = await self._inject(schedule, data)
                await self._send_at_rate(data, self._write)

    async def _inject(self, schedule: FaultSchedule, data: bytes) -> bytes:
        """Inject a fault into *data* from the server; return the bytes that remain to be forwarded."""
        kind = schedule.kind
        self._injector.record(kind, self._number, self._reads)
        if kind == "reset":
            self._reset()
        elif kind == "close":
            # The data ends with a complete frame: dropping its last byte truncates the frame.
            await self._write(data[:-1])
            raise _ConnectionEnded
        elif kind == "half_open":
            self._open = False
            await anyio.sleep_forever()
        elif kind in ("stall", "delay"):
            await anyio.sleep(schedule.seconds)
        elif kind == "corrupt":
            index = schedule.random_below(len(data))
            return (
                data[:index]
                + bytes([data[index] ^ 1 << schedule.random_below(8)])
                + data[index + 1 :]
            )
        elif kind == "split":
            while len(data) > 1:
                size = 1 + schedule.random_below(min(len(data) - 1, 16))
                await self._write(data[:size])
                await anyio.lowlevel.checkpoint()
                data = data[size:]
        return data

    async def _send_at_rate(self, data: bytes, send: Callable[[bytes], Awaitable[Any]]) -> None:
        """Send *data* at this connection's rate."""
        if not self._rate:
            await send(data)
            return
        step = max(1, self._rate // 10)
        for start in range(0, len(data), step):
            piece = data[start : start + step]
            await anyio.sleep(len(piece) / self._rate)
            await send(piece)

    # ------------------------------------------------------------------------- the client's socket

    async def _read(self) -> bytes:
        while True:
            with contextlib.suppress(BlockingIOError):
                return self._client.recv(_READ_BYTES)
            await anyio.wait_readable(self._client)

    async def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[self._client.send(data) :]
            except BlockingIOError:
                await anyio.wait_writable(self._client)

    async def _respond(self, status: int) -> None:
        """Send an HTTP response to the client and close."""
        reason = http.HTTPStatus(status).phrase
        head = f"HTTP/1.1 {status} {reason}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        await self._write(head.encode())
        raise _ConnectionEnded

    def _reset(self) -> None:
        """Close the client's connection with a TCP reset."""
        with contextlib.suppress(OSError):
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        raise _ConnectionEnded


def _address(text: bytes, port: int) -> tuple[str, int]:
    """Return host and port of ``host:port``; *port* is the default."""
    match = re.fullmatch(r"\[?([^\]]*?)\]?(?::(\d+))?", text.decode("ascii", "replace"))
    assert match is not None  # every text matches
    return match[1], int(match[2] or port)


@asynccontextmanager
async def relay(
    *, to: str = "", host: str = "127.0.0.1", port: int = 0, **faults: Any
) -> AsyncIterator[Relay]:
    """Run a relay as an HTTP proxy, or, with *to* (``"host:port"``), forward to that address only.

    Faults are configured as in a stack: ``relay(seed=7, delay=0.01, reset={"at": 30})``. With port 0
    it listens on any free port; `Relay.url` contains it.

    Raises ValueError for an invalid fault or address, OSError if the port is in use.
    """
    settings = read_settings(faults)
    target = _address(to.encode(), 0) if to else None
    if target is not None and not target[1]:
        raise ValueError(f"to must be an address such as '127.0.0.1:4001', not {to!r}.")
    with socket.create_server((host, port)) as listener:
        listener.setblocking(False)
        running = Relay(listener, FaultInjector(settings, "relay", anyio.current_time), target)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(running.run)
            try:
                yield running
            finally:
                tasks.cancel_scope.cancel()
                anyio.notify_closing(listener)
