"""The HTTP client of a stream: whom it trusts, through which proxy it goes, how long it waits.

httpx does HTTP; its transport is a public parameter, and this one differs from its own in the sockets
that it opens, which are those of `_sockets`.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager

import httpcore
import httpx

from tapeloom.errors import ConfigError, Mistake
from tapeloom.plugin import Network
from tapeloom.plugin.transports import CONNECT_TIMEOUT_SECONDS, USER_AGENT, proxy_for, ssl_context

from .sockets import Sockets


def client(network: Network, source: str) -> httpx.AsyncClient:
    """Return a client by what a stack says of the network; *source* names that stack.

    Raises ConfigError where the file with certificates cannot be read.
    """
    return httpx.AsyncClient(
        transport=_Transport(_trusting(network, source), network),
        timeout=httpx.Timeout(CONNECT_TIMEOUT_SECONDS),
        headers={"user-agent": USER_AGENT},
    )


def _trusting(network: Network, source: str) -> ssl.SSLContext:
    try:
        return ssl_context(network)
    except OSError as error:
        problem = f"{network.ca!r} cannot be read as PEM certificates: {error}"
        raise ConfigError([Mistake("network.ca", problem)], source) from error


class _Transport(httpx.AsyncBaseTransport):
    """Sends requests through one proxy, or, without one, as the environment says."""

    def __init__(self, context: ssl.SSLContext, network: Network) -> None:
        self._context = context
        self._network = network
        self._pools: dict[str | None, httpcore.AsyncConnectionPool] = {}
        self._exits = AsyncExitStack()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; raises the errors of httpx."""
        url = request.url
        target = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        assert isinstance(request.stream, httpx.AsyncByteStream)
        asked = httpcore.Request(
            request.method,
            target,
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        pool = await self._pool(url)
        with _told_as_httpx(request):
            answer = await pool.handle_async_request(asked)
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=_Body(answer, request),
            extensions=answer.extensions,
        )

    async def _pool(self, url: httpx.URL) -> httpcore.AsyncConnectionPool:
        """Return the connections that go the way to *url*."""
        way = proxy_for(self._network, str(url))
        if way not in self._pools:
            pool = httpcore.AsyncConnectionPool(
                ssl_context=self._context,
                proxy=_proxy(way) if way else None,
                max_connections=None,
                network_backend=Sockets(),
            )
            self._pools[way] = await self._exits.enter_async_context(pool)
        return self._pools[way]

    async def aclose(self) -> None:
        """Close every connection."""
        await self._exits.aclose()


def _proxy(address: str) -> httpcore.Proxy:
    proxy = httpx.Proxy(address)
    url = httpcore.URL(
        scheme=proxy.url.raw_scheme,
        host=proxy.url.raw_host,
        port=proxy.url.port,
        target=proxy.url.raw_path,
    )
    return httpcore.Proxy(url, auth=proxy.raw_auth)


class _Body(httpx.AsyncByteStream):
    """The body of an answer, with the errors of httpx."""

    def __init__(self, answer: httpcore.Response, request: httpx.Request) -> None:
        self._answer = answer
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _told_as_httpx(self._request):
            async for part in self._answer.aiter_stream():
                yield part

    async def aclose(self) -> None:
        """Let go of the connection."""
        with _told_as_httpx(self._request):
            await self._answer.aclose()


@contextmanager
def _told_as_httpx(request: httpx.Request) -> Iterator[None]:
    """Raise httpcore's errors as those of httpx, which have the same names."""
    try:
        yield
    except (
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.ProxyError,
        httpcore.TimeoutException,
        httpcore.UnsupportedProtocol,
    ) as error:
        raise getattr(httpx, type(error).__name__)(str(error), request=request) from error
