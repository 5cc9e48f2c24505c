"""Where data enters: dial, read in batches, answer pings, close.

httpx-ws does the handshake, sends and closes; this is the only room that knows it. Its own receive
path hands over one message per task switch. `BatchSession`, given to httpx-ws through its public
`session_class`, reads the socket in the caller's task and returns what one read brought as a list.
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

from .frame_decoder import Decoder
from .handshake import OFFER, HandshakeError, agreed
from .message_assembly import ProtocolError
from .sockets import READ, Wire


class BatchSession(httpx_ws.AsyncWebSocketSession):
    """An httpx-ws session without a background task: whoever calls `receive_batch` reads."""

    feed = ""

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncIterator[BatchSession]:
        assert self.response is not None
        asked, answer = self.response.request.headers, self.response.headers
        self._decoder = Decoder(MAX_MESSAGE_BYTES, agreed(asked, answer))
        self._read, self._first = self.stream.read, True
        self._wire: Wire | None = None  # where what is read from now on comes from
        self._told = False
        self._lost: ConnectionLost | None = None
        try:
            yield self
        finally:
            await self._leave()

    async def receive_batch(self) -> list[bytes]:
        """Return the messages of the next read; empty where it brought only control frames."""
        if self._told:
            self._told = False
            return []
        if self._lost is not None:
            raise self._lost
        try:
            data = await self._read(READ)
        except (httpcore.ReadError, httpcore.ReadTimeout, OSError) as error:
            raise self._end("the connection broke", None) from error
        if not data:
            raise self._end("the server ended the connection without a close frame", 1006)
        if self._first:
            # What came with the answer to the handshake has been read now: nothing stands between
            # us and the socket any more.
            self._first = False
            self._wire = self.stream.get_extra_info("stream")
            self._read = self._read if self._wire is None else self._wire.read
        messages = self._decoder.feed(data)
        if self._decoder.control:
            # Of what came together with messages the next call tells: a pong is not overlooked.
            self._told = bool(messages)
            await self._answer()
        if self._decoder.error is not None:
            await self._complain(self._decoder.error)
        return messages

    async def deliver_batches(self, take: OnRead[list[bytes]]) -> NoReturn:
        """Call *take* with the messages of each read, as `receive_batch` returns them; see `PushLink`."""
        decoder = self._decoder

        def fed(data: bytes) -> Awaitable[None] | None:
            messages = decoder.feed(data)
            if decoder.control or decoder.error is not None:
                return self._told_apart(messages, take)
            return take(messages)

        while True:
            if (waiting := take(await self.receive_batch())) is not None:
                await waiting
            if self._wire is None or self._told or self._lost is not None:
                continue
            try:
                await self._wire.push_to(fed)
            except (httpcore.ReadError, httpcore.ReadTimeout, OSError) as error:
                raise self._end("the connection broke", None) from error
            raise self._end("the server ended the connection without a close frame", 1006)

    async def _told_apart(self, messages: list[bytes], take: OnRead[list[bytes]]) -> None:
        """Hand over messages, and do what the control frames among them want."""
        if messages and (waiting := take(messages)) is not None:
            await waiting
        await self._answer()
        if self._decoder.error is not None:
            await self._complain(self._decoder.error)
        if self._lost is not None:
            raise self._lost
        if (waiting := take([])) is not None:
            await waiting

    async def _answer(self) -> None:
        frames, self._decoder.control = self._decoder.control, []
        for frame in frames:
            # What came before an end is delivered first; the next call tells of it.
            with suppress(ConnectionLost):
                if frame.is_ping:
                    await self.send_event(ws.Pong(frame.payload))
                elif frame.is_close:
                    await self._return(*frame.close_reason())

    async def _return(self, code: int | None, reason: str) -> None:
        """Answer a close frame with its own code (RFC 6455 §5.5.1)."""
        self._end(f"the server closed it: {code or 'no code'} {reason}".rstrip(), code)
        # A peer that reads no more must not hold us up.
        with anyio.move_on_after(CLOSE_TIMEOUT_SECONDS):
            await self.send_event(ws.CloseConnection(code or CloseReason.NO_STATUS_RCVD))

    async def _complain(self, error: ProtocolError) -> None:
        """Close on a peer that broke the protocol; what came before it is delivered first."""
        self._end(f"protocol error: {error}", error.code)
        with suppress(ConnectionLost), anyio.move_on_after(CLOSE_TIMEOUT_SECONDS):
            await self.send_event(ws.CloseConnection(error.code, str(error)[:100]))

    def _end(self, message: str, code: int | None) -> ConnectionLost:
        self._lost = ConnectionLost(self.feed, message, code)
        return self._lost

    async def send_event(self, event: ws.Event) -> None:
        """Send one WebSocket event.

        Raises ConnectionLost where the connection is gone.
        """
        try:
            await self.send(event)
        except (httpx_ws.HTTPXWSException, httpcore.WriteError, OSError) as error:
            raise self._lost or self._end("the connection broke while sending", None) from error
        except LocalProtocolError as error:
            raise self._lost or self._end("the connection is closing", None) from error

    async def say(self, event: ws.Event) -> None:
        """Send one WebSocket event, unless the end has come already.

        Raises ConnectionLost.
        """
        if self._lost is not None:
            raise self._lost
        await self.send_event(event)

    async def _leave(self) -> None:
        # A peer that reads no more must not hold us up.
        with anyio.move_on_after(CLOSE_TIMEOUT_SECONDS, shield=True):
            try:
                # A socket that is closed with something unread resets the connection, and the peer
                # may never see what it was told.
                while self._decoder.error is not None and await self._read(READ):
                    pass
                await self.close()
            except (httpcore.NetworkError, OSError, LocalProtocolError):
                await self.stream.aclose()


class WebSocketLink:
    """A `feeds.Link` on a `BatchSession`."""

    def __init__(self, session: BatchSession) -> None:
        self._session = session
        self.receive = session.receive_batch
        self.deliver = session.deliver_batches

    async def send(self, text: str) -> None:
        """Send one text message."""
        await self._session.say(ws.TextMessage(text))

    async def ping(self) -> None:
        """Send a WebSocket ping."""
        await self._session.say(ws.Ping(b""))


def dialer(
    client: httpx.AsyncClient, feed: str, clock: Clock | None = None, *, compressed: bool = False
) -> Dial:
    """Return how *feed* dials: through httpx-ws, on *client*.

    *compressed* says to the server that its messages may be.
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
                        # By a scheme of their own httpcore would speak TLS to every server behind a
                        # proxy, and httpx not see the proxies of the environment.
                        re.sub("^ws", "http", endpoint.url),
                        client,
                        keepalive_ping_interval_seconds=None,
                        session_class=BatchSession,
                        headers={**endpoint.headers, **offer},
                    )
                )
            except httpx_ws.WebSocketUpgradeError as error:
                status, headers = error.response.status_code, error.response.headers
                raise handshake_refused(feed, endpoint.url, status, headers, now()) from error
            except HandshakeError as error:
                raise bad_handshake(feed, endpoint.url, error, compressed=compressed) from error
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise invalid_address(feed, endpoint.url, error) from error
            except (httpx.HTTPError, httpcore.NetworkError, OSError) as error:
                raise dial_error(feed, endpoint.url, error) from error
            session.feed = feed
            yield WebSocketLink(session)

    return dial
