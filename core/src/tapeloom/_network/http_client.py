"""The HTTP client of a stream: its certificates, proxy, timeouts and the limit of what it reads.

httpx does HTTP. Its transport is a public parameter; `_Transport` differs from httpx's own in that its
connections use the streams of `sockets`, and in that it decompresses, within a limit. httpx inflates
each part of a body whole, and a body that is compressed twice a million times.
"""

from __future__ import annotations

import importlib.util
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

#: The largest body of an answer, in bytes, before and after decompression. The lists of instruments
#: of large venues have some 15 MB.
MAX_BODY_BYTES = 32 * 1024 * 1024
#: Names of compressions in the header `content-encoding`. We ask for gzip.
_COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd", "compress"})


def http_client(network: Network, source: str) -> httpx.AsyncClient:
    """Return an HTTP client with the network settings of a stack; *source* names the stack.

    Raises ConfigError if the certificate file cannot be read, or if a package for the proxy is missing.
    """
    if network.proxy:
        _proxy(network.proxy, source)
    return httpx.AsyncClient(
        transport=_Transport(_ssl_context(network, source), network),
        timeout=httpx.Timeout(CONNECT_TIMEOUT_SECONDS),
        headers={"user-agent": USER_AGENT, "accept-encoding": "gzip"},
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
        headers = httpx.Headers(response.headers)
        encodings = headers.pop("content-encoding", "").lower().split(",")
        compressions = [name.strip() for name in encodings if name.strip() in _COMPRESSIONS]
        return httpx.Response(
            response.status,
            headers=headers,
            stream=_Body(response, request, compressions),
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


def _proxy(address: str, source: str = "the environment") -> httpcore.Proxy:
    proxy = httpx.Proxy(address)
    if proxy.url.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        problem = "a SOCKS proxy needs the package socksio. Run: pip install socksio"
        raise ConfigError([Mistake("network.proxy", problem)], source)
    url = httpcore.URL(
        scheme=proxy.url.raw_scheme,
        host=proxy.url.raw_host,
        port=proxy.url.port,
        target=proxy.url.raw_path,
    )
    return httpcore.Proxy(url, auth=proxy.raw_auth)


class _Body(httpx.AsyncByteStream):
    """The decompressed body of a response, which raises the errors of httpx.

    Raises httpx.DecodingError for a body that is too large or cannot be decompressed.
    """

    def __init__(
        self, response: httpcore.Response, request: httpx.Request, compressions: list[str]
    ) -> None:
        self._response = response
        self._request = request
        self._compressions = compressions
        self._room = self._compressed_room = MAX_BODY_BYTES

    async def __aiter__(self) -> AsyncIterator[bytes]:
        stream = zlib.decompressobj(zlib.MAX_WBITS | 16) if self._compressions else None
        if self._compressions not in ([], ["gzip"], ["x-gzip"]):
            names = ", ".join(self._compressions)
            raise self._error(f"has the content-encoding {names!r}; expected gzip or none")
        parts = self._response.aiter_stream()
        try:
            with _httpx_errors(self._request):
                async for part in parts:
                    self._compressed_room -= len(part)
                    if self._compressed_room < 0:
                        raise self._too_large()
                    yield part if stream is None else self._inflate(stream, part)
        except httpx.DecodingError:
            await self.aclose()
            # Read on until that fails: only so do httpcore's generators end in order.
            with suppress(httpcore.NetworkError, httpcore.ProtocolError):
                async for _ in parts:
                    pass
            raise
        if stream is not None and not stream.eof and self._compressed_room < MAX_BODY_BYTES:
            raise self._error("ends in the middle of its compressed data")

    def _inflate(self, stream: zlib._Decompress, part: bytes) -> bytes:
        if stream.eof:
            return b""  # what follows the compressed data belongs to nothing
        try:
            inflated = stream.decompress(part, self._room + 1)
        except zlib.error as error:
            raise self._error(f"is not valid gzip: {error}") from error
        self._room -= len(inflated)
        if self._room < 0:
            raise self._too_large()
        return inflated

    def _too_large(self) -> httpx.DecodingError:
        return self._error(f"has more than {MAX_BODY_BYTES // 1024**2} MiB, the most that is read")

    def _error(self, problem: str) -> httpx.DecodingError:
        return httpx.DecodingError(f"the answer {problem}", request=self._request)

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
