"""Sockets as httpcore wants them, read without a timer and without an exception for each read.

httpcore's own start a deadline and a table of exceptions for every read, also where nobody asked for
a deadline; on a socket that brings one frame at a time that is a third of the work. Its network
backend is a public parameter, so the streams that it opens may be these. What comes can be had by
`read`, as httpcore does, or be pushed.

With TLS, one read of the socket brings all that is in it, not one record.
"""

from __future__ import annotations

import selectors
import ssl
from collections.abc import Awaitable, Iterable
from typing import Any

import anyio
import anyio.abc
import httpcore

from tapeloom._runtime.event_loop import running_backend
from tapeloom.plugin import OnRead

from .asyncio_socket import Direct, connect, possible

#: Bytes that one read of a socket may bring; and a TLS record, at most.
READ, _RECORD = 256 * 1024, 16 * 1024
_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class Sockets(httpcore.AsyncNetworkBackend):
    """Opens TCP connections, on the event loop that runs."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect; raises httpcore's ConnectError and ConnectTimeout."""
        try:
            with anyio.fail_after(timeout):
                stream = await _connected(host, port, local_address)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except _BROKEN as error:
            raise httpcore.ConnectError(str(error)) from error
        for option in socket_options or ():
            stream.extra(anyio.abc.SocketAttribute.raw_socket).setsockopt(*option)
        return _Plain(stream)

    async def sleep(self, seconds: float) -> None:
        """Wait, between two attempts to connect."""
        await anyio.sleep(seconds)


async def _connected(host: str, port: int, local: str | None) -> anyio.abc.ByteStream:
    if running_backend() == "asyncio" and possible():
        return await connect(host, port, local)
    return await anyio.connect_tcp(host, port, local_host=local)


class Wire(httpcore.AsyncNetworkStream):
    """A stream of ours, plain or encrypted."""

    async def push_to(self, take: OnRead[bytes]) -> None:
        """Call *take* with what each read brings until the end, or until cancelled.

        Where the loop allows it, that is done from within the read. Raises httpcore's ReadError, and
        what *take* raises.
        """
        while data := await self.read(READ):
            if (waiting := take(data)) is not None:
                await waiting

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Encrypt what goes through this stream; raises httpcore's ConnectError, ConnectTimeout."""
        secure = _Secure(self, ssl_context, server_hostname)
        try:
            with anyio.fail_after(timeout):
                await secure.shake_hands()
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await self.aclose()
            if isinstance(error, TimeoutError):
                raise httpcore.ConnectTimeout(str(error)) from error
            if isinstance(error, ssl.SSLError | httpcore.NetworkError):
                raise httpcore.ConnectError(str(error)) from error
            raise
        return secure


class _Plain(Wire):
    """A TCP connection."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self._stream = stream

    async def push_to(self, take: OnRead[bytes]) -> None:
        """Call *take* with what each read brings."""
        if not isinstance(self._stream, Direct):
            await super().push_to(take)
            return
        try:
            await self._stream.push_to(take)
        except _BROKEN as error:
            raise httpcore.ReadError(str(error)) from error

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what is there, b"" at the end; raises httpcore's ReadError and ReadTimeout."""
        try:
            if timeout is None:
                return await self._stream.receive(max_bytes)
            with anyio.fail_after(timeout):
                return await self._stream.receive(max_bytes)
        except anyio.EndOfStream:
            return b""
        except TimeoutError as error:
            raise httpcore.ReadTimeout(str(error)) from error
        except _BROKEN as error:
            raise httpcore.ReadError(str(error)) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all of it; raises httpcore's WriteError and WriteTimeout."""
        if not buffer:
            return
        try:
            with anyio.fail_after(timeout):
                await self._stream.send(buffer)
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        except _BROKEN as error:
            raise httpcore.WriteError(str(error)) from error

    async def aclose(self) -> None:
        """Close at once."""
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore asks for: the socket, its addresses, whether it has something."""
        attributes = anyio.abc.SocketAttribute
        if info == "stream":
            return self
        if info == "socket":
            return self._stream.extra(attributes.raw_socket, None)
        if info == "client_addr":
            return self._stream.extra(attributes.local_address, None)
        if info == "server_addr":
            return self._stream.extra(attributes.remote_address, None)
        if info == "is_readable":
            return _readable(self._stream.extra(attributes.raw_socket, None))
        return None


class _Secure(Wire):
    """TLS over another stream."""

    def __init__(self, under: Wire, context: ssl.SSLContext, hostname: str | None) -> None:
        self._under = under
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=hostname)
        self._turn = anyio.Lock()  # to send: a read may have something to say too
        self._left = b""  # decrypted, and more than was asked for

    async def shake_hands(self) -> None:
        """Agree on keys, and see the peer's certificate."""
        while True:
            try:
                self._object.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush(None)
                await self._fill(None)
        await self._flush(None)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return all that one read of the socket brings, b"" at the end."""
        data = self._left
        while not data:
            try:
                await self._fill(timeout)
                data = self._decrypted()
            except ssl.SSLError as error:
                raise httpcore.ReadError(str(error)) from error
            if self._outgoing.pending:
                await self._flush(timeout)
            if self._incoming.eof:
                break
        self._left = data[max_bytes:]
        return data[:max_bytes] if self._left else data

    async def push_to(self, take: OnRead[bytes]) -> None:
        """Call *take* with what each read of the socket brings."""

        def decrypt(data: bytes) -> Awaitable[None] | None:
            self._incoming.write(data)
            try:
                plain = self._decrypted()
            except ssl.SSLError as error:
                raise httpcore.ReadError(str(error)) from error
            if self._outgoing.pending or self._incoming.eof:
                return self._go_on(plain, take)
            return take(plain) if plain else None

        left, self._left = self._left, b""
        try:
            if left and (waiting := take(left)) is not None:
                await waiting
            await self._under.push_to(decrypt)
        except _FarewellError:
            pass

    async def _go_on(self, plain: bytes, take: OnRead[bytes]) -> None:
        """Hand over, and then say what TLS has to say; raises _FarewellError where that is the end."""
        if plain and (waiting := take(plain)) is not None:
            await waiting
        if self._outgoing.pending:
            await self._flush(None)
        if self._incoming.eof:
            raise _FarewellError

    def _decrypted(self) -> bytes:
        """Return what can be read of all that has come in; b"" where no record is whole."""
        incoming, read, pending = self._incoming, self._object.read, self._object.pending
        parts: list[bytes] = []
        try:
            while part := read(_RECORD):
                # To ask in vain costs an exception, as much as several records; so look first.
                if not incoming.pending and not pending():
                    return b"".join((*parts, part)) if parts else part
                parts.append(part)
            incoming.write_eof()  # the peer has said that this is the end
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLEOFError:
            pass  # it has gone without a word, which `eof` tells
        return b"".join(parts)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all of it; raises httpcore's WriteError and WriteTimeout."""
        view = memoryview(buffer)
        try:
            while view:
                view = view[self._object.write(view) :]
        except ssl.SSLError as error:
            raise httpcore.WriteError(str(error)) from error
        await self._flush(timeout)

    async def _fill(self, timeout: float | None) -> None:
        data = await self._under.read(READ, timeout)
        if data:
            self._incoming.write(data)
        elif not self._incoming.eof:
            self._incoming.write_eof()

    async def _flush(self, timeout: float | None) -> None:
        async with self._turn:
            if data := self._outgoing.read():
                await self._under.write(data, timeout)

    async def aclose(self) -> None:
        """Close at once."""
        await self._under.aclose()

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore asks for: the TLS object, and what the stream under it knows."""
        if info == "stream":
            return self
        if info == "ssl_object":
            return self._object
        return self._under.get_extra_info(info)


class _FarewellError(Exception):
    """The peer has said by TLS that it sends nothing more."""


def _readable(socket: Any) -> bool:
    """Return whether a read would not wait: something has come, or the socket is closed."""
    if socket is None or socket.fileno() < 0:
        return True
    with selectors.DefaultSelector() as selector:
        selector.register(socket, selectors.EVENT_READ)
        return bool(selector.select(0))
