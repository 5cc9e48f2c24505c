"""For the tests of adapters, stages and stacks: venues that are faked on the wire, and time.

`FakeVenue` is a server on a loopback socket, `FakeWire` the same without a socket, `VirtualClock` a
clock that moves when everybody waits. None of them replaces code of tapeloom: they stand where the
network and the world stand.
"""

from __future__ import annotations

import heapq
import os
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.abc
import anyio.lowlevel
from attrs import define, field
from wsproto import ConnectionType, WSConnection
from wsproto import events as ws
from wsproto.utilities import RemoteProtocolError

from .errors import ConnectionLost, alone
from .feeds import Endpoint, Link

__all__ = ["FakeClient", "FakeVenue", "FakeWire", "VirtualClock", "WireEnd", "captures"]


def captures(root: Path) -> Path | None:
    """Return the folder of real recordings, None where there is none.

    It is named by the environment variable TAPELOOM_CAPTURES, and is ``../shared/data`` beside the
    repository *root* otherwise.
    """
    folder = Path(os.environ.get("TAPELOOM_CAPTURES") or root / "../shared/data")
    return folder if folder.is_dir() else None


# -------------------------------------------------------------------------------------------- time


_STEPS = 10


class VirtualClock:
    """Time that passes only when told to, or, inside `running`, when everybody waits for it."""

    def __init__(self, start_ns: int = 1_700_000_000_000_000_000) -> None:
        self._start_ns = start_ns
        self._now = 0.0
        self._sleepers: list[tuple[float, int, anyio.Event]] = []
        self._number = count()

    def time_ns(self) -> int:
        """Return virtual nanoseconds since 1970."""
        return self._start_ns + round(self._now * 1_000_000_000)

    def monotonic(self) -> float:
        """Return virtual seconds since the clock was made."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait for virtual seconds."""
        sleeper = (self._now + max(seconds, 0), next(self._number), anyio.Event())
        heapq.heappush(self._sleepers, sleeper)
        try:
            await sleeper[2].wait()
        finally:
            if sleeper in self._sleepers:  # whoever gives up waiting must not move the time
                self._sleepers.remove(sleeper)
                heapq.heapify(self._sleepers)

    def advance(self, seconds: float) -> None:
        """Let time pass, and wake everyone whose time has come."""
        self._now += seconds
        while self._sleepers and self._sleepers[0][0] <= self._now:
            heapq.heappop(self._sleepers)[2].set()

    async def jump(self) -> None:
        """Wait until every task waits, then go to the moment at which the next one wakes."""
        trio = sys.modules.get("trio")
        if trio is None or not trio.lowlevel.in_trio_run():
            # On asyncio, anyio looks again only after 0.1 s where a task is still about to run: let
            # them come to rest first.
            for _ in range(_STEPS):
                await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()
        if self._sleepers:
            self.advance(max(self._sleepers[0][0] - self._now, 0))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Let time jump by itself whenever every task waits."""

        async def keep_jumping() -> None:
            while True:
                await self.jump()
                await anyio.lowlevel.checkpoint()

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(keep_jumping)
                yield self
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise alone(group) from None


# ------------------------------------------------------------------------------- without a socket


class WireEnd:
    """The venue's end of one connection: what the client sent, and a way to answer."""

    def __init__(self) -> None:
        self.sent: list[str] = []  #: texts that the client sent, "<ping>" for a ping
        self._incoming: list[list[bytes]] = []
        self._lost: ConnectionLost | None = None
        self._more = anyio.Event()
        self._said = anyio.Event()
        self._taken = 0

    def push(self, *texts: str | bytes) -> None:
        """Let the client's next read bring these frames together."""
        self._incoming.append([t.encode() if isinstance(t, str) else t for t in texts])
        self._more.set()

    def close(self, code: int | None = 1006, message: str = "closed by the test") -> None:
        """End the connection, after what was pushed."""
        self._lost = ConnectionLost("", message, code)
        self._more.set()

    async def receive(self) -> list[bytes]:
        """Return what the next read brings; the client's side."""
        while not self._incoming:
            if self._lost is not None:
                raise self._lost
            self._more = anyio.Event()
            await self._more.wait()
        return self._incoming.pop(0)

    async def send(self, text: str) -> None:
        """Take a text from the client."""
        if self._lost is not None:
            raise self._lost
        self._say(text)

    async def ping(self) -> None:
        """Take a ping from the client."""
        self._say("<ping>")

    async def take(self) -> str:
        """Return the next text that the client sent, waiting for it; the venue's side."""
        while self._taken == len(self.sent):
            self._said = anyio.Event()
            await self._said.wait()
        self._taken += 1
        return self.sent[self._taken - 1]

    def _say(self, text: str) -> None:
        self.sent.append(text)
        self._said.set()


@define
class FakeWire:
    """Connections without a socket: give `dial` to `tapeloom.open`.

    `answer` is called with the end of each new connection, in a task of its own, and plays the
    venue. What it raises while dialling (before its first await) is met by whoever dials.
    """

    answer: Callable[[WireEnd, Endpoint], Coroutine[Any, Any, None]]
    ends: list[WireEnd] = field(factory=list)  #: every connection so far, the newest last
    refusals: list[Exception] = field(factory=list)  #: met, one by one, by the next dials

    @asynccontextmanager
    async def dial(self, endpoint: Endpoint) -> AsyncIterator[Link]:
        """Open a connection."""
        if self.refusals:
            raise self.refusals.pop(0)
        end = WireEnd()
        self.ends.append(end)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.answer, end, endpoint)
                try:
                    yield end
                finally:
                    tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise alone(group) from None


# ---------------------------------------------------------------------------------- with a socket


class FakeClient:
    """One WebSocket connection, seen from the server."""

    def __init__(self, stream: anyio.abc.ByteStream, path: str, connection: WSConnection) -> None:
        self.path = path
        self.stream = stream
        self._connection = connection

    async def receive(self) -> ws.Event:
        """Return the next thing the client sent; pings are answered on the way.

        Raises anyio.EndOfStream at the end.
        """
        while True:
            for event in self._connection.events():
                if isinstance(event, ws.Ping):
                    await self.send_event(event.response())
                return event
            self._connection.receive_data(await self.stream.receive())

    async def receive_text(self) -> str:
        """Return the next text; other things are passed over."""
        while True:
            event = await self.receive()
            if isinstance(event, ws.TextMessage):
                return event.data
            if isinstance(event, ws.CloseConnection):
                raise anyio.EndOfStream

    async def send(self, *texts: str) -> None:
        """Send texts, all in one write."""
        await self.stream.send(b"".join(self._connection.send(ws.TextMessage(t)) for t in texts))

    async def send_event(self, event: ws.Event) -> None:
        """Send any WebSocket event."""
        await self.stream.send(self._connection.send(event))

    async def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are, well-formed or not."""
        await self.stream.send(data)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a close frame."""
        await self.send_event(ws.CloseConnection(code, reason))


Script = Callable[[FakeClient], Awaitable[None]]
Response = tuple[int, Mapping[str, str], bytes]


@define
class FakeVenue:
    """A venue on a loopback port: WebSocket connections run `script`, GETs are answered by `http`.

    `http` maps a path with its query to status, headers and body. `upgrade` is the status of the
    WebSocket handshake if it is not to succeed.
    """

    script: Script
    http: dict[str, Response] = field(factory=dict)
    context: ssl.SSLContext | None = None
    upgrade: Response | None = None
    port: int = 0
    connections: int = 0

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Self]:
        """Listen until left."""
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self.port)
        self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        try:
            async with listener, anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, self._serve)
                yield self
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise alone(group) from None

    def url(self, scheme: str = "ws") -> str:
        """Return the address, for ``ws`` or ``http``; with an s where there is TLS."""
        return f"{scheme}{'s' if self.context else ''}://127.0.0.1:{self.port}"

    async def _serve(self, raw: anyio.abc.ByteStream) -> None:
        from anyio.streams.tls import TLSStream

        stream = raw
        try:
            if self.context is not None:
                stream = await TLSStream.wrap(
                    raw, server_side=True, ssl_context=self.context, standard_compatible=False
                )
            await self._talk(stream)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            pass  # the client left, as clients do
        finally:
            with anyio.move_on_after(1, shield=True):
                await stream.aclose()
            await anyio.aclose_forcefully(raw)

    async def _talk(self, stream: anyio.abc.ByteStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive()
        _, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].decode(errors="replace")
        if b"upgrade: websocket" not in head.lower():
            await stream.send(_response(self.http.get(path, (404, {}, b"not found"))))
            return
        if self.upgrade is not None:
            await stream.send(_response(self.upgrade))
            return
        connection = WSConnection(ConnectionType.SERVER)
        try:
            connection.receive_data(head)
        except RemoteProtocolError:  # it asks for a WebSocket and does not say how
            await stream.send(_response((400, {}, b"no handshake")))
            return
        next(iter(connection.events()))
        self.connections += 1
        await stream.send(connection.send(ws.AcceptConnection()))
        await self.script(FakeClient(stream, path, connection))


def _response(response: Response) -> bytes:
    status, headers, body = response
    lines = [f"HTTP/1.1 {status} Status", f"content-length: {len(body)}", "connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
