"""Opens connections: a socket, picows' handshake on it, and core's error messages for failures."""

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
    MAX_REFUSAL_BYTES,
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

__all__ = ["PicowsDial"]

#: The logger of picows. Our errors report its failures; add a handler to see its own messages.
_log = logging.getLogger("tapeloom_picows")
_log.addHandler(logging.NullHandler())
#: The status and the headers in an HTTP response.
_STATUS = re.compile(rb"HTTP/1\.\d (\d{3})\b")
_HEADER = re.compile(rb"\r\n([^:\r\n]+):[ \t]*([^\r\n]*)")


class PicowsDial:
    """The `Dial` of one feed, with the network settings of its stack."""

    backends = frozenset({"asyncio"})

    def __init__(self, feed: str, network: Network, clock: Clock) -> None:
        self._feed = feed
        self._clock = clock
        self._network = network
        self._ssl_context: ssl.SSLContext | None = None

    def __call__(self, endpoint: Endpoint) -> AbstractAsyncContextManager[Link]:
        """Open a connection to *endpoint*."""
        return self._connection(endpoint)

    @asynccontextmanager
    async def _connection(self, endpoint: Endpoint) -> AsyncIterator[Link]:
        link = PicowsLink(self._feed)
        await self._open(endpoint, link)
        try:
            yield link
        finally:
            await link.close()

    async def _open(self, endpoint: Endpoint, link: PicowsLink) -> None:
        feed, url = self._feed, endpoint.url
        check_headers(feed, url, endpoint.headers)
        try:
            proxy = proxy_for(self._network, url)
            with _PendingSocket() as pending, anyio.fail_after(2 * CONNECT_TIMEOUT_SECONDS):
                await picows.ws_connect(
                    lambda request, response: link,
                    url,
                    ssl_context=self._trusted() if url.startswith("wss:") else None,
                    proxy=proxy,
                    proxy_ssl_context=self._trusted() if proxy and proxy[:6] == "https:" else None,
                    socket_factory=pending.connect,
                    websocket_handshake_timeout=CONNECT_TIMEOUT_SECONDS,
                    extra_headers=_headers(endpoint),
                    max_redirects=0,
                    enable_auto_pong=False,
                    max_frame_size=MAX_MESSAGE_BYTES,
                    logger_name=_log,
                )
                if not link.is_open:
                    raise ConnectionError("the connection ended before the handshake was answered")
                pending.release()
        except picows.WSHandshakeError as error:
            raise self._handshake_error(url, error) from error
        except ProxyError as error:
            raise proxy_refused(feed, url, str(error)) from error
        except OSError as error:
            raise dial_error(feed, url, error) from error
        except (picows.WSInvalidURL, ValueError) as error:
            raise invalid_address(feed, url, error) from error

    def _trusted(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            self._ssl_context = ssl_context(self._network)
        return self._ssl_context

    def _handshake_error(self, url: str, error: picows.WSHandshakeError) -> FeedError:
        """Return our error for an invalid response to the handshake, or an HTTP error status."""
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
        now, body = self._clock.time_ns(), (error.raw_body or b"")[:MAX_REFUSAL_BYTES]
        return handshake_refused(self._feed, url, int(status[1]), headers, now, body)


def _headers(endpoint: Endpoint) -> dict[str, str]:
    names = {name.lower() for name in endpoint.headers}
    defaults = {} if "user-agent" in names else {"User-Agent": USER_AGENT}
    return {**defaults, **endpoint.headers}


class _PendingSocket:
    """The socket of one dial; shut down on exit unless released before.

    picows keeps a connection open when the wait for its handshake is cancelled. Shutting the socket
    down makes picows close it.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            with suppress(OSError):  # the peer has closed it
                self._socket.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Keep the socket open on exit."""
        self._socket = None

    async def connect(self, url: picows.WSParsedURL) -> socket.socket:
        """Connect to the first address of the host that accepts, one after another. Raises OSError."""
        loop = asyncio.get_running_loop()
        resolve = partial(loop.getaddrinfo, url.host, url.port, type=socket.SOCK_STREAM)
        deadline = anyio.current_time() + CONNECT_TIMEOUT_SECONDS
        with anyio.fail_after(CONNECT_TIMEOUT_SECONDS):
            addresses = await resolve()
        for left in range(len(addresses), 0, -1):
            family, kind, protocol, _, address = addresses[-left]
            candidate = socket.socket(family, kind, protocol)
            candidate.setblocking(False)
            try:
                # Each address gets an equal share of the time left.
                with anyio.fail_after((deadline - anyio.current_time()) / left):
                    await loop.sock_connect(candidate, address)
            except OSError:
                candidate.close()
                if left == 1:
                    raise
            except BaseException:
                candidate.close()
                raise
            else:
                self._socket = candidate
                return candidate
        raise OSError(f"{url.host} has no address")
