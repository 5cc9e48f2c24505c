"""A fake venue on a loopback port, with WebSocket, REST and TLS."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

import anyio
import anyio.abc
from attrs import define, field
from tapeloom.errors import unwrap_single
from wsproto import ConnectionType, WSConnection
from wsproto import events as ws
from wsproto.utilities import RemoteProtocolError

__all__ = ["FakeClient", "FakeVenue"]


class FakeClient:
    """The server's end of one WebSocket connection."""

    def __init__(
        self, stream: anyio.abc.ByteStream, path: str, connection: WSConnection, head: bytes = b""
    ) -> None:
        self.path = path
        self.head = head  #: the raw bytes of the HTTP request
        self.stream = stream
        self._connection = connection

    async def receive(self) -> ws.Event:
        """Return the next WebSocket event from the client; a ping is answered and returned.

        Raises anyio.EndOfStream at the end of the connection.
        """
        while True:
            for event in self._connection.events():
                if isinstance(event, ws.Ping):
                    await self.send_event(event.response())
                return event
            self._connection.receive_data(await self.stream.receive())

    async def receive_text(self) -> str:
        """Return the next text message; skip other events.

        Raises anyio.EndOfStream if the client closes.
        """
        while True:
            event = await self.receive()
            if isinstance(event, ws.TextMessage):
                return event.data
            if isinstance(event, ws.CloseConnection):
                raise anyio.EndOfStream

    async def send(self, *texts: str) -> None:
        """Send text messages, all in one write."""
        await self.stream.send(b"".join(self._connection.send(ws.TextMessage(t)) for t in texts))

    async def send_event(self, event: ws.Event) -> None:
        """Send any WebSocket event."""
        await self.stream.send(self._connection.send(event))

    async def send_bytes(self, data: bytes) -> None:
        """Send raw bytes, well-formed or not."""
        await self.stream.send(data)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a close frame."""
        await self.send_event(ws.CloseConnection(code, reason))


Script = Callable[[FakeClient], Awaitable[Any]]
Response = tuple[int, Mapping[str, str], bytes]


@define
class FakeVenue:
    """A venue on a loopback port: WebSocket connections run `script`, GETs are answered by `http`.

    `http` maps a path with its query to status, headers and body. `upgrade` is the response to the
    WebSocket handshake, if the handshake must fail.
    """

    script: Script
    http: dict[str, Response] = field(factory=dict)
    context: ssl.SSLContext | None = None
    upgrade: Response | None = None
    port: int = 0
    connections: int = 0

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Self]:
        """Listen while the context is open; `port` is then the bound port."""
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self.port)
        self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        try:
            async with listener, anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, self._serve)
                yield self
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise unwrap_single(group) from None

    def url(self, scheme: str = "ws") -> str:
        """Return the URL for the scheme ``ws`` or ``http``; with TLS, ``wss`` or ``https``."""
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
            pass  # the client closed the connection
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
        except RemoteProtocolError:  # an upgrade request without a valid handshake
            await stream.send(_response((400, {}, b"no handshake")))
            return
        next(iter(connection.events()))
        self.connections += 1
        await stream.send(connection.send(ws.AcceptConnection()))
        await self.script(FakeClient(stream, path, connection, head))


def _response(response: Response) -> bytes:
    status, headers, body = response
    lines = [f"HTTP/1.1 {status} Status", f"content-length: {len(body)}", "connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
