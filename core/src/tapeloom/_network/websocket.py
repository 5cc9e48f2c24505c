"""Dials WebSockets, reads messages in batches, answers pings and closes.

httpx-ws does the handshake, sends and closes; only this module uses it. Its own receive path switches
tasks for every message. `BatchSession`, passed to httpx-ws as its public parameter `session_class`,
reads the socket in the caller's task and returns the messages of one read as a list.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import NoReturn

import anyio
import httpcore
import httpx
import httpx_ws
from wsproto import events as ws
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError

from tapeloom._runtime.system_clock import SystemClock
from tapeloom.errors import ConnectionLost
from tapeloom.plugin import Clock, Dial, Endpoint, Link, OnRead
from tapeloom.plugin.transports import (
    CLOSE_TIMEOUT_SECONDS,
    MAX_MESSAGE_BYTES,
    bad_handshake,
    check_headers,
    dial_error,
    handshake_refused,
    invalid_address,
)

from .frame_decoder import FrameDecoder
from .handshake import OFFER, HandshakeError, negotiate
from .message_assembly import ProtocolError
from .sockets import READ, PushStream


class BatchSession(httpx_ws.AsyncWebSocketSession):
    """An httpx-ws session without a background task: the caller of `receive_batch` reads the socket."""

    feed = ""

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncIterator[BatchSession]:
        assert self.response is not None
        inflate = negotiate(self.response.request.headers, self.response.headers)
        self._decoder = FrameDecoder(MAX_MESSAGE_BYTES, inflate)
        self._read, self._first = self.stream.read, True
        self._push_stream: PushStream | None = None  # the stream read from after the first read
        self._control_seen = False  # an empty batch is due for control frames
        self._lost: ConnectionLost | None = None
        try:
            yield self
        finally:
            await self._close_session()

    async def receive_batch(self) -> list[bytes]:
        """Return the messages of the next read; an empty list if it had only control frames.

        Raises ConnectionLost once the connection has ended.
        """
        if self._control_seen:
            self._control_seen = False
            return []
        if self._lost is not None:
            raise self._lost
        try:
            data = await self._read(READ)
        except (httpcore.ReadError, httpcore.ReadTimeout, OSError) as error:
            raise self._set_lost("the connection broke", None) from error
        if not data:
            raise self._set_lost("the server ended the connection without a close frame", 1006)
        if self._first:
            # The first read returns the bytes that came with the handshake response, which httpcore
            # has buffered. After it, the socket's own stream can be read directly.
            self._first = False
            self._push_stream = self.stream.get_extra_info("stream")
            self._read = self._read if self._push_stream is None else self._push_stream.read
        messages = self._decoder.feed(data)
        if self._decoder.control:
            # With messages in the same read, the next call returns the empty batch of the control
            # frames, so that a pong is always seen.
            self._control_seen = bool(messages)
            await self._handle_control()
        if self._decoder.error is not None:
            await self._close_on_error(self._decoder.error)
        return messages

    async def push_batches(self, on_read: OnRead[list[bytes]]) -> NoReturn:
        """Call *on_read* with the messages of each read, as `receive_batch` returns; see `PushLink`."""
        decoder = self._decoder

        def push(data: bytes) -> Awaitable[None] | None:
            messages = decoder.feed(data)
            if decoder.control or decoder.error is not None:
                return self._push_with_control(messages, on_read)
            return on_read(messages)

        while True:
            if (pending := on_read(await self.receive_batch())) is not None:
                await pending
            if self._push_stream is None or self._control_seen or self._lost is not None:
                continue
            try:
                await self._push_stream.push_to(push)
            except (httpcore.ReadError, httpcore.ReadTimeout, OSError) as error:
                raise self._set_lost("the connection broke", None) from error
            raise self._set_lost("the server ended the connection without a close frame", 1006)

    async def _push_with_control(self, messages: list[bytes], on_read: OnRead[list[bytes]]) -> None:
        """Push messages, handle the control frames of the same read, then push an empty batch."""
        if messages and (pending := on_read(messages)) is not None:
            await pending
        await self._handle_control()
        if self._decoder.error is not None:
            await self._close_on_error(self._decoder.error)
        if self._lost is not None:
            raise self._lost
        if (pending := on_read([])) is not None:
            await pending

    async def _handle_control(self) -> None:
        frames, self._decoder.control = self._decoder.control, []
        for frame in frames:
            # Messages of the same read are delivered first; the next call raises `_lost`.
            with suppress(ConnectionLost):
                if frame.is_ping:
                    await self.send_event(ws.Pong(frame.payload))
                elif frame.is_close:
                    await self._answer_close(*frame.close_reason())

    async def _answer_close(self, code: int | None, reason: str) -> None:
        """Answer a close frame with its own code (RFC 6455 §5.5.1)."""
        self._set_lost(f"the server closed it: {code or 'no code'} {reason}".rstrip(), code)
        # The deadline is for a peer that no longer reads.
        with anyio.move_on_after(CLOSE_TIMEOUT_SECONDS):
            await self.send_event(ws.CloseConnection(code or CloseReason.NO_STATUS_RCVD))

    async def _close_on_error(self, error: ProtocolError) -> None:
        """Send a close frame for a protocol error; the messages before it are still delivered."""
        self._set_lost(f"protocol error: {error}", error.code)
        with suppress(ConnectionLost), anyio.move_on_after(CLOSE_TIMEOUT_SECONDS):
            await self.send_event(ws.CloseConnection(error.code, str(error)[:100]))

    def _set_lost(self, message: str, code: int | None) -> ConnectionLost:
        self._lost = ConnectionLost(self.feed, message, code)
        return self._lost

    async def send_event(self, event: ws.Event) -> None:
        """Send one WebSocket event. Raises ConnectionLost when the connection is gone."""
        try:
            await self.send(event)
        except (httpx_ws.HTTPXWSException, httpcore.WriteError, OSError) as error:
            raise self._lost or self._set_lost(
                "the connection broke while sending", None
            ) from error
        except LocalProtocolError as error:
            raise self._lost or self._set_lost("the connection is closing", None) from error

    async def send_if_open(self, event: ws.Event) -> None:
        """Send one WebSocket event; raise ConnectionLost, without sending, if the connection has ended."""
        if self._lost is not None:
            raise self._lost
        await self.send_event(event)

    async def _close_session(self) -> None:
        # The deadline is for a peer that no longer reads.
        with anyio.move_on_after(CLOSE_TIMEOUT_SECONDS, shield=True):
            try:
                # Closing a socket with unread data sends a reset, and the peer may not get our close
                # frame. Read to the end first.
                while self._decoder.error is not None and await self._read(READ):
                    pass
                await self.close()
            except (httpcore.NetworkError, OSError, LocalProtocolError):
                await self.stream.aclose()


class WebSocketLink:
    """The `PushLink` of a `BatchSession`."""

    def __init__(self, session: BatchSession) -> None:
        self._session = session
        self.receive = session.receive_batch
        self.push_to = session.push_batches

    async def send(self, text: str) -> None:
        """Send one text message."""
        await self._session.send_if_open(ws.TextMessage(text))

    async def ping(self) -> None:
        """Send a WebSocket ping."""
        await self._session.send_if_open(ws.Ping(b""))


def dialer(
    client: httpx.AsyncClient, feed: str, clock: Clock | None = None, *, compressed: bool = False
) -> Dial:
    """Return the `Dial` function of *feed*, which connects through httpx-ws on *client*.

    *compressed* offers permessage-deflate. *clock* is read for pauses given as a date.
    """
    now = (clock or SystemClock()).time_ns
    offer = OFFER if compressed else {}

    @asynccontextmanager
    async def dial(endpoint: Endpoint) -> AsyncIterator[Link]:
        check_headers(feed, endpoint.url, endpoint.headers)
        async with AsyncExitStack() as stack:
            try:
                session = await stack.enter_async_context(
                    httpx_ws.aconnect_ws(
                        # With ws and wss, httpcore would use TLS with every server behind a proxy, and
                        # httpx would ignore the proxies of the environment.
                        re.sub("^ws", "http", endpoint.url),
                        client,
                        keepalive_ping_interval_seconds=None,
                        session_class=BatchSession,
                        headers={**endpoint.headers, **offer},
                    )
                )
            except httpx_ws.WebSocketUpgradeError as error:
                status, headers = error.response.status_code, error.response.headers
                body = error.response.extensions.get("refusal", b"")
                raise handshake_refused(feed, endpoint.url, status, headers, now(), body) from error
            except HandshakeError as error:
                raise bad_handshake(feed, endpoint.url, error, compressed=compressed) from error
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise invalid_address(feed, endpoint.url, error) from error
            except (httpx.HTTPError, httpcore.NetworkError, OSError) as error:
                raise dial_error(feed, endpoint.url, error) from error
            session.feed = feed
            yield WebSocketLink(session)

    return dial
