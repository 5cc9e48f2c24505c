"""Bounds what connections cost: their number, how long they wait for a request, and how long they read nothing.

uvicorn has no such limits: a connection that never sends a request stays open for ever.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - uvicorn runs on asyncio only, in a loop of its own
from typing import Any

from attrs import define
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

__all__ = ["Guard"]

#: Seconds between two looks at all connections.
_SWEEP_SECONDS = 0.5


@define(eq=False)
class _Connection:
    transport: asyncio.Transport
    opened: float
    has_request: bool = False
    paused_since: float | None = None  # when it had read too little to be sent more


class Guard:
    """The open connections of one server. Times are in seconds."""

    def __init__(self, max_connections: int, request_timeout: float, send_timeout: float) -> None:
        self._max = max_connections
        self._request_timeout = request_timeout
        self._send_timeout = send_timeout
        self._connections: dict[Any, _Connection] = {}  # by transport, the oldest first
        self._waiting: dict[Any, _Connection] = {}  # those without a request, the oldest first
        self.aborted = 0  #: Number of connections that were ended because of a limit.

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def protocols(self) -> tuple[type[H11Protocol], type[WebSocketsSansIOProtocol]]:
        """Uvicorn's classes for HTTP and WebSocket connections, which report to this guard."""
        guard = self

        class Reporting(asyncio.Protocol):
            transport: Any

            def pause_writing(self) -> None:
                super().pause_writing()
                guard.paused(self.transport)

            def resume_writing(self) -> None:
                super().resume_writing()
                guard.resumed(self.transport)

            def connection_lost(self, exc: Exception | None) -> None:
                guard.closed(self.transport)
                super().connection_lost(exc)

        class Http(Reporting, H11Protocol):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                guard.opened(transport)

            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                if self.cycle is not None:
                    guard.requested(self.transport)

        class WebSocket(Reporting, WebSocketsSansIOProtocol):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                if self.handshake_initiated:
                    guard.requested(self.transport)

        return Http, WebSocket

    def opened(self, transport: asyncio.Transport) -> None:
        """Count a new connection; if there are too many, abort the oldest without a request, or this one."""
        now = asyncio.get_running_loop().time()
        connection = _Connection(transport, now)
        self._connections[transport] = self._waiting[transport] = connection
        if len(self._connections) > self._max:
            self._abort(next(iter(self._waiting.values())))

    def requested(self, transport: asyncio.Transport) -> None:
        """Note that a connection has sent a whole request."""
        self._waiting.pop(transport, None)

    def paused(self, transport: asyncio.Transport) -> None:
        """Note that a client reads too slowly to be sent more now."""
        if connection := self._connections.get(transport):
            connection.paused_since = asyncio.get_running_loop().time()

    def resumed(self, transport: asyncio.Transport) -> None:
        """Note that a client has read."""
        if connection := self._connections.get(transport):
            connection.paused_since = None

    def closed(self, transport: asyncio.Transport) -> None:
        """Forget a connection."""
        self._connections.pop(transport, None)
        self._waiting.pop(transport, None)

    async def sweep_for_ever(self) -> None:
        """Abort connections whose time is up, until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = asyncio.get_running_loop().time()
            late = [
                connection
                for connection in self._waiting.values()
                if now - connection.opened > self._request_timeout
            ]
            for connection in self._connections.values():
                since = connection.paused_since
                if since is not None and now - since > self._send_timeout:
                    late.append(connection)
            for connection in late:
                self._abort(connection)

    def abort_all(self) -> None:
        """Abort the connections that have not closed."""
        for connection in [*self._connections.values()]:
            self._abort(connection)

    def _abort(self, connection: _Connection) -> None:
        self.aborted += 1
        self.closed(connection.transport)
        connection.transport.abort()
