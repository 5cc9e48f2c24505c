"""The server's end of one WebSocket connection."""

from __future__ import annotations

from typing import Any

import anyio
from wsproto.connection import Connection as Wire
from wsproto.connection import ConnectionType
from wsproto.events import CloseConnection, Message, Ping, Pong, TextMessage
from wsproto.utilities import RemoteProtocolError

from .connection import CLOSE_WAIT_SECONDS, Connection

__all__ = ["WebSocketConnection"]


class WebSocketConnection(Connection):
    """The server's end of one client's WebSocket; it handles pings, pongs and close codes."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._wire = Wire(ConnectionType.SERVER)
        self._text: list[str] = []
        self._client_closed = False
        self._pinged = self._since
        self._unanswered: dict[bytes, float] = {}

    def _closing_bytes(self, code: int, reason: str) -> bytes:
        payload = code.to_bytes(2, "big") + reason.encode()[:100]
        return bytes([0x88, len(payload)]) + payload

    async def _send_closing(self, closing: bytes) -> None:
        await self.stream.send(closing)
        if not self._client_closed:
            await anyio.sleep(CLOSE_WAIT_SECONDS)

    async def _read(self, first: bytes) -> None:
        block = first
        while True:
            if block:
                self._wire.receive_data(block)
                try:
                    for event in self._wire.events():
                        if await self._process_event(event):
                            return
                except RemoteProtocolError as problem:
                    self.close(
                        int(problem.event_hint.code)
                        if isinstance(problem.event_hint, CloseConnection)
                        else 1002,
                        "protocol",
                    )
                    return
            block = await self.stream.receive()

    async def _process_event(self, event: object) -> bool:
        """Process one event; return True if the client has closed."""
        if isinstance(event, CloseConnection):
            self._client_closed = True
            if self._closing is None:
                self._how = f"client {int(event.code)}"
                self._closing = self._wire.send(event.response())
                self._wake.set()
                await anyio.sleep(
                    CLOSE_WAIT_SECONDS
                )  # the writer sends the close frame and cancels this
            return True
        if isinstance(event, Ping):
            if self._allowed(is_text=False) and not (
                self._injector and self._injector.fault_due("ping_no_pong", self.number)
            ):
                self.queue([self._wire.send(event.response())])
                self._wake.set()
        elif isinstance(event, Pong):
            if self._allowed(is_text=False):
                self._unanswered.pop(bytes(event.payload), None)
        elif isinstance(event, TextMessage):
            self._text.append(event.data)
            if event.message_finished and self._allowed():
                text, self._text = "".join(self._text), []
                self._process_text(text)
        elif isinstance(event, Message):
            self.close(1003, "text only")
        return False

    def enforce_timeouts(self, now: float) -> float:
        """Send pings that are due and close on a timeout; return when to check again."""
        check_at, rules, scale = super().enforce_timeouts(now), self.session.rules, self.scale
        if self._closing is not None or rules.ping_interval_seconds is None:
            return check_at
        return min(
            check_at,
            self._enforce_pings(
                now, rules.ping_interval_seconds / scale, rules.pong_timeout_seconds / scale
            ),
        )

    def _enforce_pings(self, now: float, interval: float, timeout: float) -> float:
        if self._unanswered and now >= next(iter(self._unanswered.values())) + timeout:
            self.close(self.session.rules.violation_close_code, "Pong timeout")
            return now + 1.0
        if now >= self._pinged + interval:
            self._pinged = now
            if not (self._injector and self._injector.fault_due("no_ping", self.number)):
                payload = str(int(now * 1000)).encode()
                self._unanswered[payload] = now
                self.queue([bytes([0x89, len(payload)]) + payload])
                self._wake.set()
        waits = [self._pinged + interval, *(at + timeout for at in self._unanswered.values())]
        return min(waits)
