"""Where data enters: dial, read in batches, answer pings, close.

httpx-ws does the handshake, sends and closes; this is the only room that knows it. Its own receive
path hands over one message per task switch. `BatchSession`, given to httpx-ws through its public
`session_class`, reads the socket in the caller's task and returns what one read brought as a list.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from urllib.parse import urlsplit

import anyio
import httpcore
import httpx
import httpx_ws
from wsproto import events as ws
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError

from ._clock import SystemClock
from ._framing import Decoder, ProtocolError
from ._handshake import OFFER, HandshakeError, agreed
from .errors import ConnectionFailed, ConnectionLost, FeedError, Throttled
from .feeds import Clock, Dial, Endpoint, Link
from .units import retry_after

__all__ = ["MESSAGE_LIMIT", "BatchSession", "asks_for_pause", "dialer", "explain", "throttled"]

MESSAGE_LIMIT = 16 * 1024 * 1024
_READ = 256 * 1024
_CLOSE_WITHIN = 2.0
#: Event loops that try several addresses of a host say it in words of their own.
#: With this status a proxy wants a login.
_PROXY_LOGIN = 407
#: What to do about a certificate, by OpenSSL's reason not to trust it; else: see who has signed it.
_RENEW = "Is the clock of this machine right? If it is, the venue has to renew its certificate."
_REMEDIES = {9: _RENEW, 10: _RENEW} | dict.fromkeys(
    (62, 64), "It is the certificate of another host: check the address, and the proxy."
)
_REFUSED = re.compile(r"refused|attempts .*failed", re.IGNORECASE)
#: HTTP statuses with which venues ask for a pause.
_THROTTLING = frozenset({403, 418, 429})


class BatchSession(httpx_ws.AsyncWebSocketSession):
    """An httpx-ws session without a background task: whoever calls `receive_batch` reads."""

    feed = ""

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncIterator[BatchSession]:
        assert self.response is not None
        asked, answer = self.response.request.headers, self.response.headers
        self._decoder = Decoder(MESSAGE_LIMIT, agreed(asked, answer))
        self._read, self._first = self.stream.read, True
        self._lost: ConnectionLost | None = None
        try:
            yield self
        finally:
            await self._leave()

    async def receive_batch(self) -> list[bytes]:
        """Return the messages of the next read; empty where it brought only control frames."""
        if self._lost is not None:
            raise self._lost
        try:
            data = await self._read(_READ)
        except (httpcore.ReadError, httpcore.ReadTimeout, OSError) as error:
            raise self._end("the connection broke", None) from error
        if not data:
            raise self._end("the server ended the connection without a close frame", 1006)
        if self._first:
            # What came with the answer to the handshake has been read now: nothing stands between
            # us and the socket any more.
            self._first = False
            own = self.stream.get_extra_info("stream")
            self._read = self._read if own is None else own.read
        messages = self._decoder.feed(data)
        if self._decoder.control:
            await self._answer()
        if self._decoder.error is not None:
            await self._complain(self._decoder.error)
        return messages

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
        with anyio.move_on_after(_CLOSE_WITHIN):
            await self.send_event(ws.CloseConnection(code or CloseReason.NO_STATUS_RCVD))

    async def _complain(self, error: ProtocolError) -> None:
        """Close on a peer that broke the protocol; what came before it is delivered first."""
        self._end(f"protocol error: {error}", error.code)
        await self._leave(error.code, str(error)[:100])

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

    async def _leave(self, code: int = 1000, reason: str = "") -> None:
        # A peer that reads no more must not hold us up.
        with anyio.move_on_after(_CLOSE_WITHIN, shield=True):
            try:
                await self.close(code, reason)
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
                raise _refused(feed, endpoint.url, error.response, now()) from error
            except HandshakeError as error:
                raise _misunderstood(feed, endpoint.url, error, compressed) from error
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise _unusable(feed, endpoint.url, error) from error
            except (httpx.HTTPError, httpcore.NetworkError, OSError) as error:
                raise explain(feed, endpoint.url, error) from error
            session.feed = feed
            yield WebSocketLink(session)

    return dial


def _unusable(feed: str, url: str, error: Exception) -> ConnectionFailed:
    failed = ConnectionFailed(
        feed,
        f"{url!r} is no address to dial: {error}. Expected one that begins with ws:// or wss://.",
    )
    failed.retryable = False
    return failed


def _misunderstood(feed: str, url: str, error: Exception, compressed: bool) -> ConnectionFailed:
    failed = ConnectionFailed(
        feed,
        f"{url} broke the rules of the WebSocket handshake: {error}."
        + (" Try it without compression under [network]." if compressed else ""),
    )
    failed.retryable = False
    return failed


def _refused(feed: str, url: str, response: httpx.Response, now: int) -> FeedError:
    status = response.status_code
    if asks_for_pause(response):
        return throttled(feed, url, response, now)
    if status == _PROXY_LOGIN:
        return _stopped(feed, urlsplit(url).netloc, f"{status} {response.reason_phrase}".rstrip())
    failed = ConnectionFailed(
        feed,
        f"{url} answered the WebSocket handshake with HTTP {status}."
        + (" Check the address and, where there is one, the key." if status < 500 else ""),
    )
    failed.retryable = status >= 500
    return failed


def _stopped(feed: str, host: str, words: str) -> ConnectionFailed:
    """Return the error for a proxy that has answered, with a status and *words*, in place of *host*."""
    status = int(found[0]) if (found := re.match(r"\d{3}\b", words)) else 0
    if status == _PROXY_LOGIN:
        text = (
            f"the proxy wants a login before it lets us through to {host} ({words}). Give its"
            ' address with name and password, as a secret: proxy = { env = "PROXY" } under [network].'
        )
    elif status >= 500 or not status:
        text = f"the proxy cannot reach {host} ({words}). Check the address and the proxy."
    else:
        text = (
            f"the proxy does not let us through to {host} ({words})."
            " Check its rules, and proxy under [network]."
        )
    failed = ConnectionFailed(feed, text)
    failed.retryable = not 400 <= status < 500 or status in (408, 425, 429)
    return failed


def asks_for_pause(response: httpx.Response) -> bool:
    """Return whether an answer asks us to come back later, and not at once."""
    status = response.status_code
    return status in _THROTTLING or (status >= 500 and "retry-after" in response.headers)


def throttled(
    feed: str, url: str, response: httpx.Response, now: int, words: str = ""
) -> Throttled:
    """Return the error for an answer that asks for a pause; *words* are the venue's own."""
    seconds = retry_after(response.headers, now)
    pause = f" for {seconds:g} s" if seconds is not None else ""
    return Throttled(
        feed,
        f"{urlsplit(url).netloc} asks for a pause{pause}: HTTP {response.status_code}"
        f"{', ' + words if words else ''}."
        " Fewer connections and requests from this address keep it from happening.",
        response.status_code,
        seconds,
    )


def explain(feed: str, url: str, error: Exception) -> ConnectionFailed:
    """Return what *error*, met while dialling *url*, means and what to do about it."""
    host = urlsplit(url).netloc
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError | OSError):
        cause = cause.__cause__ or cause.__context__
    text = str(cause or error) or type(error).__name__
    permanent = False
    if isinstance(cause, ssl.SSLCertVerificationError):
        permanent = True
        text = (
            f"the certificate of {host} is not trusted ({cause.verify_message}). "
            + _REMEDIES.get(
                cause.verify_code,
                'For a private certificate authority set ca = "file.pem" under [network].',
            )
        )
    elif isinstance(error, httpx.ProxyError):
        return _stopped(feed, host, text)
    elif isinstance(cause, ssl.SSLError):
        text = f"TLS with {host} failed: {text}. Is this a TLS port?"
    elif isinstance(cause, socket.gaierror):
        text = (
            f"the name of {host} could not be resolved ({text}). Check the address and the network."
        )
    elif isinstance(cause, ConnectionRefusedError) or _REFUSED.search(text):
        text = (
            f"{host} refused the connection. Is the address right, does the venue say that it is up,"
            " and does the proxy run, where there is one?"
        )
    elif isinstance(error, httpx.TimeoutException):
        text = (
            f"{host} did not answer in time. Check the network, the proxy and the venue's status."
        )
    else:
        text = f"could not connect to {host}: {text}"
    failed = ConnectionFailed(feed, text)
    failed.retryable = not permanent
    return failed
