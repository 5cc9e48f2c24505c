"""Where data enters: dial, read in batches, answer pings, close.

httpx-ws does the handshake, sends and closes; this is the only room that knows it. Its own receive
path hands over one message per task switch. `BatchSession`, given to httpx-ws through its public
`session_class`, reads the socket in the caller's task and returns what one read brought as a list.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import httpcore
import httpx
import httpx_ws
from wsproto import events as ws
from wsproto.utilities import LocalProtocolError

from ._framing import Decoder, ProtocolError
from .dialling import CLOSE_WITHIN, MESSAGE_LIMIT, check_headers, explain, refused, unusable
from .errors import ConnectionLost
from .feeds import Dial, Endpoint, Link

__all__ = ["BatchSession", "dialer"]

_READ = 256 * 1024
#: At most this many TLS records join one batch, so that one connection cannot starve the others.
_DRAIN = 512
_MOST_SKIPPED = 8


class BatchSession(httpx_ws.AsyncWebSocketSession):
    """An httpx-ws session without a background task: whoever calls `receive_batch` reads."""

    feed = ""

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncIterator[BatchSession]:
        self._decoder = Decoder(MESSAGE_LIMIT)
        self._ssl: Any = self.stream.get_extra_info("ssl_object")
        self._skip = self._skipped = 0
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
            data = await self.stream.read(_READ)
        except (httpcore.ReadError, httpcore.ReadTimeout, OSError) as error:
            raise self._end("the connection broke", None) from error
        if not data:
            raise self._end("the server ended the connection without a close frame", 1006)
        if self._ssl is not None:
            data = self._drain(data)
        messages = self._decoder.feed(data)
        if self._decoder.control:
            # Of what came together with messages the next call tells: a pong is not overlooked.
            self._told = bool(messages)
            await self._answer()
        if self._decoder.error is not None:
            await self._complain(self._decoder.error)
        return messages

    def _drain(self, data: bytes) -> bytes:
        """Add the TLS records that OpenSSL already holds: each would cost a read of its own.

        An empty try costs as much as several records gain, so after a miss it is tried less often.
        """
        if self._skipped < self._skip:
            self._skipped += 1
            return data
        self._skipped = 0
        parts = [data]
        try:
            while len(parts) <= _DRAIN and (record := self._ssl.read(65536)):
                parts.append(record)
        except ssl.SSLError:  # nothing more is there; an end or an error shows at the next read
            pass
        if len(parts) == 1:
            self._skip = min(2 * self._skip + 1, _MOST_SKIPPED - 1)
            return data
        self._skip = 0
        return b"".join(parts)

    async def _answer(self) -> None:
        frames, self._decoder.control = self._decoder.control, []
        for frame in frames:
            if frame.is_ping:
                await self.send_event(ws.Pong(frame.payload))
            elif frame.is_close:
                code, reason = frame.close_reason()
                # What came before it is delivered first; the next call tells of the end.
                self._end(f"the server closed it: {code or 'no code'} {reason}".rstrip(), code)
                return

    async def _complain(self, error: ProtocolError) -> None:
        """Close on a peer that broke the protocol; what came before it is delivered first."""
        self._end(f"protocol error: {error}", error.code)
        await self.close(error.code, str(error)[:100])

    def _end(self, message: str, code: int | None) -> ConnectionLost:
        self._lost = ConnectionLost(self.feed, message, code)
        return self._lost

    async def send_event(self, event: ws.Event) -> None:
        """Send one WebSocket event.

        Raises ConnectionLost where the connection is gone.
        """
        if self._lost is not None:
            raise self._lost
        try:
            await self.send(event)
        except (httpx_ws.HTTPXWSException, httpcore.WriteError, OSError) as error:
            raise self._end("the connection broke while sending", None) from error
        except LocalProtocolError as error:
            raise self._end("the connection is closing", None) from error

    async def _leave(self) -> None:
        with anyio.move_on_after(CLOSE_WITHIN, shield=True):
            try:
                await self.close()
            except (httpcore.NetworkError, OSError, LocalProtocolError):
                await self.stream.aclose()


class WebSocketLink:
    """A `feeds.Link` on a `BatchSession`."""

    def __init__(self, session: BatchSession) -> None:
        self._session = session
        self.receive = session.receive_batch

    async def send(self, text: str) -> None:
        """Send one text message."""
        await self._session.send_event(ws.TextMessage(text))

    async def ping(self) -> None:
        """Send a WebSocket ping."""
        await self._session.send_event(ws.Ping(b""))


def dialer(client: httpx.AsyncClient, feed: str) -> Dial:
    """Return how *feed* dials: through httpx-ws, on *client*."""

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
                        headers=dict(endpoint.headers),
                    )
                )
            except httpx_ws.WebSocketUpgradeError as error:
                status, headers = error.response.status_code, error.response.headers
                raise refused(feed, endpoint.url, status, headers.get("retry-after", "")) from error
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise unusable(feed, endpoint.url, error) from error
            except (httpx.HTTPError, httpcore.NetworkError, OSError) as error:
                raise explain(feed, endpoint.url, error) from error
            session.feed = feed
            yield WebSocketLink(session)

    return dial
