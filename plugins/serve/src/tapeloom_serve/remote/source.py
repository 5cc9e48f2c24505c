"""Reads the WebSocket of a server, and delivers its events as they are."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import anyio
from tapeloom import Event, Gap, Reject, Status, decode
from tapeloom.errors import ConnectionLost, FeedError
from tapeloom.plugin import Cursor, Feed, RelayedBatch
from tapeloom.plugin.transports import (
    USER_AGENT,
    bad_handshake,
    dial_error,
    handshake_refused,
    invalid_address,
    proxy_for,
    ssl_context,
)
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from .continuity import Continuity
from .settings import RemoteSettings

__all__ = ["RemoteStream"]

#: Bytes of a message of the server, which may have the latest states of everything.
_MAX_MESSAGE_BYTES = 64 << 20
#: Seconds that the server has to answer when the connection is closed.
_CLOSE_SECONDS = 1.0
#: Seconds between two cursors: each has a line for every subscription.
_CURSOR_SECONDS = 1.0

Deliver = Callable[[list[Event]], Awaitable[None]]


class RemoteStream:
    """A relay of the events of a server. It emits a Gap for what it missed."""

    backends = frozenset({"asyncio", "trio"})
    channels = frozenset[str]()
    resumes = True

    def __init__(self, feed: Feed, settings: RemoteSettings) -> None:
        self._feed = feed
        self._settings = settings
        self._continuity = Continuity()
        self._snapshots = 0  # events to come that are latest states
        self._changed: anyio.Event | None = None
        self._unread_cursor: Cursor | None = None
        self._cursor_at = 0.0
        self._number = 0

    def resume(self, cursor: Cursor | None) -> None:
        """Continue after what a store has: report what was missed since."""
        if cursor is None or cursor.origin != self._settings.url:
            return
        self._number = cursor.number
        try:
            self._continuity.restore(cursor.text)
        except ValueError:
            self._unread_cursor = cursor
        self._continuity.lose("restart")

    def symbols_changed(self) -> None:
        """Ask the server for the feed's symbols of now."""
        if self._changed is not None:
            self._changed.set()

    async def run(self, deliver: Deliver) -> None:
        """Deliver what the server sends until the connection ends.

        Raises ConnectionLost, or another FeedError if it cannot be opened.
        """
        settings = self._settings
        query = urlencode(
            {
                key: value
                for key, value in (("size", settings.queue_size), ("policy", settings.policy))
                if value
            }
        )
        url = f"{settings.url}?wait=1{'&' if query else ''}{query}"
        try:
            async with _connect_class()(url, **self._options()) as socket:
                now = self._feed.clock.time_ns()
                try:
                    status = Status(self._feed.venue, "", now, now, "connected", settings.url)
                    await deliver([*self._unknown_loss(), status])
                    await self._read(socket, deliver)
                finally:  # also if cancelled: what is not closed stays open until it is collected
                    with anyio.move_on_after(2 * _CLOSE_SECONDS, shield=True):
                        await (getattr(socket, "aclose", None) or socket.close)()
        except* ConnectionClosed as group:
            raise self._lost(group) from None
        except* (OSError, InvalidHandshake, InvalidURI) as group:
            raise self._dial_error(_first(group)) from None

    async def _read(self, socket: Any, deliver: Deliver) -> None:
        """Subscribe and deliver, and subscribe again when the feed's symbols change."""
        self._snapshots = 0

        async def follow_symbols() -> None:
            while True:
                self._changed = anyio.Event()
                await socket.send(self._subscribe())
                await self._changed.wait()

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow_symbols)
                while True:
                    text = await socket.recv()
                    if events := self._read_message(text):
                        await deliver(RelayedBatch(events, self._cursor(events)))
        except* ConnectionClosed:
            self._continuity.lose("disconnect")
            raise

    def _unknown_loss(self) -> list[Event]:
        """Return a gap of everything if the cursor of the earlier run could not be read."""
        cursor, self._unread_cursor = self._unread_cursor, None
        if cursor is None:
            return []
        now, venue = self._feed.clock.time_ns(), self._feed.venue
        return [Gap(venue, "", now, now, cursor.recv, now, "restart", None, "unrecoverable")]

    def _options(self) -> dict[str, Any]:
        """Return how to connect."""
        url, network, token = self._settings.url, self._feed.network, self._settings.token
        headers = {"Authorization": f"Bearer {token.reveal()}"} if token is not None else {}
        return {
            "additional_headers": headers,
            "user_agent_header": USER_AGENT,
            "proxy": proxy_for(network, url),
            "ssl": ssl_context(network) if url.startswith("wss:") else None,
            "compression": None,
            "close_timeout": _CLOSE_SECONDS,
            "max_size": _MAX_MESSAGE_BYTES,
        }

    def _subscribe(self) -> str:
        fields = {
            "symbols": [*self._feed.symbols],
            "channels": [*self._feed.channels],
            "venues": [*self._settings.venues],
            "types": [*self._settings.types],
        }
        return json.dumps(
            {"op": "subscribe", **{key: value for key, value in fields.items() if value}}
        )

    def _read_message(self, text: str | bytes) -> list[Event]:
        """Return the events of a message of the server. Raises FeedError if it refuses what we ask for."""
        out: list[Event] = []
        events: list[Event] = []
        lines = (text if isinstance(text, str) else text.decode(errors="replace")).split("\n")
        for line in lines:
            try:
                if line.startswith('{"type":"stream.'):
                    out += self._process(events)
                    events = []
                    self._read_control(json.loads(line))
                else:
                    events.append(decode(line))
            except ValueError as error:
                now = self._feed.clock.time_ns()
                events.append(
                    Reject(self._feed.venue, "", now, now, "unreadable_frame", str(error))
                )
        return out + self._process(events)

    def _process(self, events: list[Event]) -> list[Event]:
        count = min(self._snapshots, len(events))
        self._snapshots -= count
        return self._continuity.process(events, count)

    def _read_control(self, message: Mapping[str, Any]) -> None:
        """Obey a message of the server. Raises ValueError if it is none, FeedError if it refuses ours."""
        kind, count = message.get("type"), message.get("snapshot")
        if kind == "stream.error":
            raise FeedError(self._feed.name, f"{self._settings.url}: {message.get('error')}")
        if kind != "stream.subscribed" or type(count) is not int or count < 0:
            raise ValueError(f"expected a message of the server, got {str(message)[:200]}")
        self._snapshots = count

    def _cursor(self, events: list[Event]) -> Cursor | None:
        """Return the cursor after *events*; None if the last one is new enough."""
        now = self._feed.clock.monotonic()
        if now - self._cursor_at < _CURSOR_SECONDS:
            return None
        self._cursor_at = now
        self._number += 1
        url, recv = self._settings.url, events[-1].recv
        return Cursor(self._feed.name, url, self._number, recv, self._continuity.to_text())

    def _lost(self, group: BaseExceptionGroup[ConnectionClosed]) -> ConnectionLost:
        error = _first(group)
        frame = getattr(error, "rcvd", None)
        reason = frame.reason if frame is not None and frame.reason else "the connection broke"
        text = f"{self._settings.url}: {reason}"
        return ConnectionLost(self._feed.name, text, frame.code if frame is not None else None)

    def _dial_error(self, error: BaseException) -> FeedError:
        name, url = self._feed.name, self._settings.url
        if isinstance(error, InvalidStatus):
            answer = error.response
            headers = dict(answer.headers.raw_items())
            now, body = self._feed.clock.time_ns(), bytes(answer.body or b"")
            return handshake_refused(name, url, answer.status_code, headers, now, body)
        if isinstance(error, InvalidURI):
            return invalid_address(name, url, error)
        if isinstance(error, InvalidHandshake):
            return bad_handshake(name, url, error)
        assert isinstance(error, Exception)
        return dial_error(name, url, error)


def _connect_class() -> Any:
    """Return the class that connects on the running event loop."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        from websockets.trio.client import connect as connect_on_trio

        return connect_on_trio
    from websockets.asyncio.client import connect

    return connect


def _first(group: BaseException) -> BaseException:
    """Return the first exception in a group, however deep."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group
