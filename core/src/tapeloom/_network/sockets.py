"""Network streams for httpcore that are read without a timer and an exception table per read.

httpcore's own streams set up a deadline and an exception mapping for every read, even without a timeout;
for a socket that delivers one frame at a time that is a third of the work. httpcore's network backend is
a public parameter, so that it can use these streams. Data is returned by `read`, as httpcore does, or
pushed by `push_to`.

With TLS, one read returns everything that the socket has, not one record.
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

from .asyncio_socket import AsyncioSocket, connect, is_supported

#: Bytes per read of a socket, and per TLS record, at most.
READ, _RECORD = 256 * 1024, 16 * 1024
_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class SocketBackend(httpcore.AsyncNetworkBackend):
    """Opens TCP connections on the running event loop."""

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
                stream = await _connect(host, port, local_address)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except _BROKEN as error:
            raise httpcore.ConnectError(str(error)) from error
        for option in socket_options or ():
            stream.extra(anyio.abc.SocketAttribute.raw_socket).setsockopt(*option)
        return _TcpStream(stream)

    async def sleep(self, seconds: float) -> None:
        """Wait between two attempts to connect."""
        await anyio.sleep(seconds)


async def _connect(host: str, port: int, local: str | None) -> anyio.abc.ByteStream:
    if running_backend() == "asyncio" and is_supported():
        return await connect(host, port, local)
    return await anyio.connect_tcp(host, port, local_host=local)


class PushStream(httpcore.AsyncNetworkStream):
    """A network stream that can push data to a callback; the base of `_TcpStream` and `_TlsStream`."""

    async def push_to(self, on_read: OnRead[bytes]) -> None:
        """Call *on_read* with the bytes of each read until the end of the stream, or until cancelled.

        On asyncio it is called inside the reader callback. An awaitable that it returns is awaited
        before the next read. Raises httpcore's ReadError, and what *on_read* raises.
        """
        while data := await self.read(READ):
            if (pending := on_read(data)) is not None:
                await pending

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Return a TLS stream over this one; close this one if the handshake fails.

        Raises httpcore's ConnectError and ConnectTimeout.
        """
        secure = _TlsStream(self, ssl_context, server_hostname)
        try:
            with anyio.fail_after(timeout):
                await secure.handshake()
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await self.aclose()
            if isinstance(error, TimeoutError):
                raise httpcore.ConnectTimeout(str(error)) from error
            if isinstance(error, ssl.SSLError | httpcore.NetworkError):
                raise httpcore.ConnectError(str(error)) from error
            raise
        return secure


class _TcpStream(PushStream):
    """A TCP connection."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self._stream = stream

    async def push_to(self, on_read: OnRead[bytes]) -> None:
        """Call *on_read* with the bytes of each read."""
        if not isinstance(self._stream, AsyncioSocket):
            await super().push_to(on_read)
            return
        try:
            await self._stream.push_to(on_read)
        except _BROKEN as error:
            raise httpcore.ReadError(str(error)) from error

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return the bytes of one read, b"" at the end; raises httpcore's ReadError, ReadTimeout."""
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
        """Send all bytes; raises httpcore's WriteError and WriteTimeout."""
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
        """Return the info that httpcore names: socket, addresses, is_readable; "stream" is this object."""
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
            return _is_readable(self._stream.extra(attributes.raw_socket, None))
        return None


class _TlsStream(PushStream):
    """TLS over another stream."""

    def __init__(self, stream: PushStream, context: ssl.SSLContext, hostname: str | None) -> None:
        self._stream = stream
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=hostname)
        self._send_lock = anyio.Lock()  # reading may have to send too
        self._left = b""  # decrypted bytes beyond the `max_bytes` of the last read

    async def handshake(self) -> None:
        """Do the TLS handshake, including the check of the peer's certificate."""
        while True:
            try:
                self._object.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush(None)
                await self._fill(None)
        await self._flush(None)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return the decrypted bytes of one read of the socket, b"" at the end."""
        data = self._left
        while not data:
            try:
                await self._fill(timeout)
                data = self._decrypt()
            except ssl.SSLError as error:
                raise httpcore.ReadError(str(error)) from error
            if self._outgoing.pending:
                await self._flush(timeout)
            if self._incoming.eof:
                break
        self._left = data[max_bytes:]
        return data[:max_bytes] if self._left else data

    async def push_to(self, on_read: OnRead[bytes]) -> None:
        """Call *on_read* with the decrypted bytes of each read of the socket."""

        def decrypt(data: bytes) -> Awaitable[None] | None:
            self._incoming.write(data)
            try:
                plain = self._decrypt()
            except ssl.SSLError as error:
                raise httpcore.ReadError(str(error)) from error
            if self._outgoing.pending or self._incoming.eof:
                # TLS has bytes to send, or the peer ended the stream, which ends `push_to` below.
                return self._push_and_flush(plain, on_read)
            return on_read(plain) if plain else None

        left, self._left = self._left, b""
        try:
            if left and (pending := on_read(left)) is not None:
                await pending
            await self._stream.push_to(decrypt)
        except _CloseNotifyError:
            pass

    async def _push_and_flush(self, plain: bytes, on_read: OnRead[bytes]) -> None:
        """Call *on_read* with *plain*, send what TLS has to send; raise _CloseNotifyError at EOF."""
        if plain and (pending := on_read(plain)) is not None:
            await pending
        if self._outgoing.pending:
            await self._flush(None)
        if self._incoming.eof:
            raise _CloseNotifyError

    def _decrypt(self) -> bytes:
        """Return the content of all complete records that have arrived; b"" if there are none."""
        incoming, read, pending = self._incoming, self._object.read, self._object.pending
        parts: list[bytes] = []
        try:
            while part := read(_RECORD):
                # A read without data raises, which costs as much as several records; check first.
                if not incoming.pending and not pending():
                    return b"".join((*parts, part)) if parts else part
                parts.append(part)
            incoming.write_eof()  # an empty read: the peer has sent close_notify
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLEOFError:
            pass  # the connection ended without close_notify; `_incoming.eof` is set
        return b"".join(parts)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all bytes; raises httpcore's WriteError and WriteTimeout."""
        view = memoryview(buffer)
        try:
            while view:
                view = view[self._object.write(view) :]
        except ssl.SSLError as error:
            raise httpcore.WriteError(str(error)) from error
        await self._flush(timeout)

    async def _fill(self, timeout: float | None) -> None:
        data = await self._stream.read(READ, timeout)
        if data:
            self._incoming.write(data)
        elif not self._incoming.eof:
            self._incoming.write_eof()

    async def _flush(self, timeout: float | None) -> None:
        async with self._send_lock:
            if data := self._outgoing.read():
                await self._stream.write(data, timeout)

    async def aclose(self) -> None:
        """Close at once."""
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        """Return the info that httpcore names: the TLS object, or what the TCP stream returns."""
        if info == "stream":
            return self
        if info == "ssl_object":
            return self._object
        return self._stream.get_extra_info(info)


class _CloseNotifyError(Exception):
    """The TLS stream has ended, mostly by the peer's close_notify alert."""


def _is_readable(socket: Any) -> bool:
    """Return whether a read would return at once: data has arrived, or the socket is closed."""
    if socket is None or socket.fileno() < 0:
        return True
    with selectors.DefaultSelector() as selector:
        selector.register(socket, selectors.EVENT_READ)
        return bool(selector.select(0))
