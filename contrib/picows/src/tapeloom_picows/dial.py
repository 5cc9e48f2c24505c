"""Dialling: a socket of our own, picows' handshake on it, and core's words for what goes wrong."""

from __future__ import annotations

import asyncio  # noqa: TID251 - picows is a library of this event loop
import logging
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Self

import anyio
import picows
from python_socks import ProxyError
from tapeloom.errors import FeedError
from tapeloom.plugin import Clock, Endpoint, Link, Network
from tapeloom.plugin.transports import (
    CONNECT_TIMEOUT_SECONDS,
    MAX_MESSAGE_BYTES,
    USER_AGENT,
    check_headers,
    dial_error,
    handshake_refused,
    invalid_address,
    proxy_for,
    proxy_refused,
    ssl_context,
)

from .link import PicowsLink

__all__ = ["Dialler"]

#: What picows has to say is said by our errors; whoever wants its own words listens to this logger.
_log = logging.getLogger("tapeloom_picows")
_log.addHandler(logging.NullHandler())
_STATUS = re.compile(rb"HTTP/1\.\d (\d{3})\b")
_HEADER = re.compile(rb"\r\n([^:\r\n]+):[ \t]*([^\r\n]*)")


class Dialler:
    """The way to dial of one feed, as *network* wants connections to be made."""

    backends = frozenset({"asyncio"})

    def __init__(self, feed: str, network: Network, clock: Clock) -> None:
        self._feed = feed
        self._clock = clock
        self._network = network
        self._trusted: ssl.SSLContext | None = None

    def __call__(self, endpoint: Endpoint) -> AbstractAsyncContextManager[Link]:
        """Open a connection."""
        return self._dialled(endpoint)

    @asynccontextmanager
    async def _dialled(self, endpoint: Endpoint) -> AsyncIterator[Link]:
        link = PicowsLink(self._feed)
        await self._open(endpoint, link)
        try:
            yield link
        finally:
            await link.leave()

    async def _open(self, endpoint: Endpoint, link: PicowsLink) -> None:
        feed, url = self._feed, endpoint.url
        check_headers(feed, url, endpoint.headers)
        try:
            proxy = proxy_for(self._network, url)
            with _Socket() as own, anyio.fail_after(2 * CONNECT_TIMEOUT_SECONDS):
                await picows.ws_connect(
                    lambda request, response: link,
                    url,
                    ssl_context=self._trust() if url.startswith("wss:") else None,
                    proxy=proxy,
                    proxy_ssl_context=self._trust() if proxy and proxy[:6] == "https:" else None,
                    socket_factory=own.connected,
                    websocket_handshake_timeout=CONNECT_TIMEOUT_SECONDS,
                    extra_headers=_headers(endpoint),
                    max_redirects=0,
                    enable_auto_pong=False,
                    max_frame_size=MAX_MESSAGE_BYTES,
                    logger_name=_log,
                )
                if not link.opened:
                    raise ConnectionError("the connection ended before the handshake was answered")
                own.handed_over()
        except picows.WSHandshakeError as error:
            raise self._answered(url, error) from error
        except ProxyError as error:
            raise proxy_refused(feed, url, str(error)) from error
        except OSError as error:
            raise dial_error(feed, url, error) from error
        except (picows.WSInvalidURL, ValueError) as error:
            raise invalid_address(feed, url, error) from error

    def _trust(self) -> ssl.SSLContext:
        if self._trusted is None:
            self._trusted = ssl_context(self._network)
        return self._trusted

    def _answered(self, url: str, error: picows.WSHandshakeError) -> FeedError:
        """Return the error for a handshake that was answered, and not as it should be."""
        head = error.raw_header or b""
        status = _STATUS.match(head)
        if status is None or status[1] == b"101":
            failed = dial_error(self._feed, url, error)
            failed.retryable = False
            return failed
        headers = {
            name.decode("ascii", "replace"): value.strip().decode("ascii", "replace")
            for name, value in _HEADER.findall(head)
        }
        return handshake_refused(self._feed, url, int(status[1]), headers, self._clock.time_ns())


def _headers(endpoint: Endpoint) -> dict[str, str]:
    given = {name.lower() for name in endpoint.headers}
    own = {} if "user-agent" in given else {"User-Agent": USER_AGENT}
    return {**own, **endpoint.headers}


class _Socket:
    """The socket of one dial. Left before it was handed over, it is shut.

    picows keeps a connection whose handshake nobody waits for any longer; but it sees the end of it.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            with suppress(OSError):  # it has ended by itself
                self._socket.shutdown(socket.SHUT_RDWR)

    def handed_over(self) -> None:
        """Leave it open."""
        self._socket = None

    async def connected(self, url: picows.WSParsedURL) -> socket.socket:
        """Connect to an address of the host, trying one after another. Raises OSError."""
        loop = asyncio.get_running_loop()
        resolve = partial(loop.getaddrinfo, url.host, url.port, type=socket.SOCK_STREAM)
        deadline = anyio.current_time() + CONNECT_TIMEOUT_SECONDS
        with anyio.fail_after(CONNECT_TIMEOUT_SECONDS):
            places = await resolve()
        for left in range(len(places), 0, -1):
            family, kind, protocol, _, address = places[-left]
            own = socket.socket(family, kind, protocol)
            own.setblocking(False)
            try:
                # One that does not answer leaves time for the others.
                with anyio.fail_after((deadline - anyio.current_time()) / left):
                    await loop.sock_connect(own, address)
            except OSError:
                own.close()
                if left == 1:
                    raise
            except BaseException:
                own.close()
                raise
            else:
                self._socket = own
                return own
        raise OSError(f"{url.host} has no address")
