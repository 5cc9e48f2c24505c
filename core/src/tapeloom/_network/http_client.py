"""The HTTP client of a stream: its certificates, proxy and timeouts.

httpx does HTTP. Its transport is a public parameter; `_Transport` differs from httpx's own in that its
connections use the streams of `sockets`.
"""

from __future__ import annotations

import ssl
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress

import anyio
import httpcore
import httpx

from tapeloom.errors import ConfigError, Mistake
from tapeloom.plugin import Network
from tapeloom.plugin.transports import (
    CLOSE_TIMEOUT_SECONDS,
    CONNECT_TIMEOUT_SECONDS,
    MAX_REFUSAL_BYTES,
    USER_AGENT,
    proxy_for,
    ssl_context,
)

from .sockets import SocketBackend


def http_client(network: Network, source: str) -> httpx.AsyncClient:
    """Return an HTTP client with the network settings of a stack; *source* names the stack.

    Raises ConfigError if the certificate file cannot be read.
    """
    return httpx.AsyncClient(
        transport=_Transport(_ssl_context(network, source), network),
        timeout=httpx.Timeout(CONNECT_TIMEOUT_SECONDS),
        headers={"user-agent": USER_AGENT},
        event_hooks={"response": [_read_refusal]},
    )


async def _read_refusal(response: httpx.Response) -> None:
    """Store how the body of an answer that refuses a WebSocket handshake begins.

    httpx-ws closes such an answer without reading it. It is in the extension "refusal".
    """
    if response.status_code == 101 or "sec-websocket-key" not in response.request.headers:
        return
    body = b""
    with anyio.move_on_after(CLOSE_TIMEOUT_SECONDS) as reading, suppress(httpx.HTTPError):
        async for part in response.aiter_raw():
            body += part
            if len(body) >= MAX_REFUSAL_BYTES:
                reading.cancel()  # unlike `break`, it ends the generators that this one reads from
    if response.headers.get("content-encoding", "") in ("gzip", "deflate"):
        with suppress(zlib.error):
            body = zlib.decompressobj(wbits=47).decompress(body, MAX_REFUSAL_BYTES)
    response.extensions["refusal"] = body[:MAX_REFUSAL_BYTES]


def _ssl_context(network: Network, source: str) -> ssl.SSLContext:
    try:
        return ssl_context(network)
    except OSError as error:
        problem = f"{network.ca!r} cannot be read as PEM certificates: {error}"
        raise ConfigError([Mistake("network.ca", problem)], source) from error


class _Transport(httpx.AsyncBaseTransport):
    """Sends requests through the stack's proxy or, if there is none, the environment's."""

    def __init__(self, context: ssl.SSLContext, network: Network) -> None:
        self._context = context
        self._network = network
        self._pools: dict[str | None, httpcore.AsyncConnectionPool] = {}  # by proxy address
        self._exits = AsyncExitStack()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return the response; raises the errors of httpx."""
        url = request.url
        target = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        assert isinstance(request.stream, httpx.AsyncByteStream)
        core_request = httpcore.Request(
            request.method,
            target,
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        pool = await self._pool(url)
        with _httpx_errors(request):
            response = await pool.handle_async_request(core_request)
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Body(response, request),
            extensions=response.extensions,
        )

    async def _pool(self, url: httpx.URL) -> httpcore.AsyncConnectionPool:
        """Return the connection pool of the proxy that *url* needs."""
        proxy = proxy_for(self._network, str(url))
        if proxy not in self._pools:
            pool = httpcore.AsyncConnectionPool(
                ssl_context=self._context,
                proxy=_proxy(proxy) if proxy else None,
                max_connections=None,
                network_backend=SocketBackend(),
            )
            self._pools[proxy] = await self._exits.enter_async_context(pool)
        return self._pools[proxy]

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
    """The body of a response, which raises the errors of httpx."""

    def __init__(self, response: httpcore.Response, request: httpx.Request) -> None:
        self._response = response
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _httpx_errors(self._request):
            async for part in self._response.aiter_stream():
                yield part

    async def aclose(self) -> None:
        """Return the connection to its pool."""
        with _httpx_errors(self._request):
            await self._response.aclose()


@contextmanager
def _httpx_errors(request: httpx.Request) -> Iterator[None]:
    """Raise each error of httpcore as the error of httpx with the same name."""
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
