"""The network streams for httpcore, plain and TLS: data arrives once and in order, ends are reported."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import httpcore
import pytest
import trustme
from anyio.streams.tls import TLSStream
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom._network import asyncio_socket
from tapeloom._network.sockets import PushStream, SocketBackend
from tapeloom_testing import virtual_backend

Serve = Callable[[anyio.abc.ByteStream], Awaitable[None]]
AUTHORITY = trustme.CA()
SERVER = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
AUTHORITY.issue_cert("localhost").configure_cert(SERVER)
CLIENT = ssl.create_default_context()
AUTHORITY.configure_trust(CLIENT)


@asynccontextmanager
async def connected(
    serve: Serve, *, tls: bool, server_tls: bool | None = None
) -> AsyncIterator[httpcore.AsyncNetworkStream]:
    """Connect to a server that runs *serve* on its stream, after the handshake if it has *tls*."""

    async def serving(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            if not (tls if server_tls is None else server_tls):
                await serve(stream)
                return
            try:
                secure = await TLSStream.wrap(
                    stream, server_side=True, ssl_context=SERVER, standard_compatible=False
                )
                await serve(secure)
            except (ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream):
                pass  # the client has gone

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serving)
        stream = await SocketBackend().connect_tcp("127.0.0.1", port, timeout=5)
        try:
            if tls:
                stream = await stream.start_tls(CLIENT, "localhost", timeout=5)
            yield stream
        finally:
            await stream.aclose()
            tasks.cancel_scope.cancel()


async def read_all(stream: httpcore.AsyncNetworkStream, *, push: bool = False) -> bytes:
    parts: list[bytes] = []
    with anyio.fail_after(60):
        if push:
            assert isinstance(stream, PushStream)
            await stream.push_to(parts.append)
        else:
            while part := await stream.read(1 << 18):
                parts.append(part)
    return b"".join(parts)


@pytest.fixture(params=[False, True], ids=["read", "pushed"])
def push(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_large_data_is_sent_and_received_unchanged(tls: bool, push: bool) -> None:
    """The data is larger than a TLS record, a socket buffer and a read."""
    sent = bytes(range(256)) * 8192

    async def echo(stream: anyio.abc.ByteStream) -> None:
        for _ in range(0, len(sent), 65536):
            await stream.send(sent[:65536])
        got = 0
        while got < len(sent):
            got += len(await stream.receive())

    async with connected(echo, tls=tls) as stream, anyio.create_task_group() as tasks:
        tasks.start_soon(stream.write, sent)
        got = await read_all(stream, push=push)

    assert got == sent


async def test_one_read_returns_all_tls_records_that_have_arrived() -> None:
    """Venues send a TLS record per frame; one read per record would dominate the cost."""

    async def serve(stream: anyio.abc.ByteStream) -> None:
        assert isinstance(stream, TLSStream)
        raw, records = stream.transport_stream, []

        class Kept:
            async def send(self, data: bytes) -> None:
                records.append(data)

        stream.transport_stream = Kept()  # type: ignore[assignment]
        for n in range(100):
            await stream.send(f"{n},".encode())
        stream.transport_stream = raw
        await raw.send(b"".join(records))
        await anyio.sleep_forever()

    async with connected(serve, tls=True) as stream:
        with anyio.fail_after(10):
            got = await stream.read(1 << 18)

    assert got == "".join(f"{n}," for n in range(100)).encode()


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.binary(min_size=1, max_size=40_000), min_size=1, max_size=8),
    st.integers(0, 1 << 18),
    st.booleans(),
)
def test_the_bytes_are_the_same_for_any_split(pieces: list[bytes], most: int, tls: bool) -> None:
    """Read up to *most* bytes at a time; if *most* is 0, use `push_to`."""

    async def run() -> None:
        async def serve(stream: anyio.abc.ByteStream) -> None:
            for piece in pieces:
                await stream.send(piece)

        async with connected(serve, tls=tls) as stream:
            parts = [] if most else [await read_all(stream, push=True)]
            with anyio.fail_after(60):
                while most and (part := await stream.read(most)):
                    assert len(part) <= most
                    parts.append(part)

        assert b"".join(parts) == b"".join(pieces)

    backend, options = virtual_backend("asyncio")
    anyio.run(run, backend=backend, backend_options=options)


@pytest.mark.parametrize("notify", [True, False], ids=["close_notify", "no close_notify"])
async def test_tls_ends_after_all_data_with_or_without_close_notify(
    notify: bool, push: bool
) -> None:
    async def serve(stream: anyio.abc.ByteStream) -> None:
        await stream.send(b"the last words")
        if notify:
            assert isinstance(stream, TLSStream)
            with anyio.move_on_after(1):
                await stream.unwrap()

    async with connected(serve, tls=True) as stream:
        assert await stream.read(1 << 18) == b"the last words"
        assert await read_all(stream, push=push) == b""
        assert await stream.read(10) == b""  # and stays so


async def test_a_reset_raises_an_error_and_is_not_an_end_of_stream(tls: bool, push: bool) -> None:
    async def serve(stream: anyio.abc.ByteStream) -> None:
        raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await stream.aclose()

    async with connected(serve, tls=tls) as stream:
        with pytest.raises(httpcore.ReadError):
            await read_all(stream, push=push)
        with pytest.raises(httpcore.WriteError):
            for _ in range(3):
                await stream.write(b"anybody there?", timeout=1)


async def test_bytes_that_are_not_tls_raise_a_read_error(push: bool) -> None:
    async def serve(stream: anyio.abc.ByteStream) -> None:
        assert isinstance(stream, TLSStream)
        await stream.transport_stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await anyio.sleep_forever()

    async with connected(serve, tls=True) as stream:
        with pytest.raises(httpcore.ReadError):
            await read_all(stream, push=push)


async def test_nothing_is_pushed_while_a_returned_awaitable_is_pending(tls: bool) -> None:
    log: list[bytes] = []
    received, done = anyio.Event(), anyio.Event()

    async def serve(stream: anyio.abc.ByteStream) -> None:
        await stream.send(b"one")
        await received.wait()
        await stream.send(b"two")
        await anyio.sleep(0.05)  # time enough to arrive
        log.append(b"sent")
        done.set()

    async def slow() -> None:
        received.set()
        await done.wait()
        log.append(b"awaited")

    def on_read(data: bytes) -> Awaitable[None] | None:
        log.append(data)
        return slow() if data == b"one" else None

    async with connected(serve, tls=tls) as stream:
        assert isinstance(stream, PushStream)
        with anyio.fail_after(10):
            await stream.push_to(on_read)

    assert log == [b"one", b"sent", b"awaited", b"two"]


async def test_push_to_raises_the_error_of_its_callback_and_the_stream_stays_readable(
    tls: bool,
) -> None:
    received = anyio.Event()

    async def serve(stream: anyio.abc.ByteStream) -> None:
        await stream.send(b"one")
        await received.wait()
        await stream.send(b"two")
        await anyio.sleep_forever()

    def on_read(data: bytes) -> None:
        raise ValueError(data.decode())

    async with connected(serve, tls=tls) as stream:
        assert isinstance(stream, PushStream)
        with anyio.fail_after(10), pytest.raises(ValueError, match="one"):
            await stream.push_to(on_read)
        received.set()
        with anyio.fail_after(10):
            assert await stream.read(100) == b"two"


async def test_a_cancelled_push_loses_no_byte(tls: bool) -> None:
    released, got = anyio.Event(), bytearray()

    async def serve(stream: anyio.abc.ByteStream) -> None:
        await stream.send(b"early")
        await released.wait()
        await stream.send(b"late")
        await anyio.sleep_forever()

    async with connected(serve, tls=tls) as stream:
        assert isinstance(stream, PushStream)
        with anyio.move_on_after(0.1):
            await stream.push_to(got.extend)
        released.set()
        with anyio.fail_after(10):
            assert await stream.read(100) == b"late"

    assert got == b"early"


async def test_closing_ends_a_pending_push(tls: bool) -> None:
    async def serve(stream: anyio.abc.ByteStream) -> None:
        await anyio.sleep_forever()

    async with connected(serve, tls=tls) as stream, anyio.create_task_group() as tasks:

        async def wait() -> None:
            with pytest.raises(httpcore.ReadError):
                await read_all(stream, push=True)

        tasks.start_soon(wait)
        await anyio.sleep(0.05)
        await stream.aclose()


@pytest.mark.parametrize("how", ["refuses", "never answers"])
async def test_the_next_address_is_tried_if_one_does_not_accept(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name has two addresses."""
    with socket.create_server(("127.0.0.1", 0)) as good:
        port = good.getsockname()[1]
        bad = socket.create_server(("127.0.0.2", port), backlog=0)
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:  # until the backlog is full
            client.setblocking(False)
            client.connect_ex(("127.0.0.2", port))
        if how == "refuses":
            bad.close()
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("127.0.0.2", "127.0.0.1")
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **named: found)
        try:
            stream = await SocketBackend().connect_tcp("venue.test", port, timeout=5)
            assert stream.get_extra_info("server_addr") == ("127.0.0.1", port)
            await stream.aclose()
        finally:
            for client in (bad, *waiting):
                client.close()


@pytest.mark.parametrize("own", [True, False], ids=["its deadline", "its caller"])
async def test_a_cancelled_read_loses_no_byte(own: bool, tls: bool) -> None:
    released = anyio.Event()

    async def serve(stream: anyio.abc.ByteStream) -> None:
        await released.wait()
        await stream.send(b"late")
        await anyio.sleep_forever()

    async with connected(serve, tls=tls) as stream:
        if own:
            with pytest.raises(httpcore.ReadTimeout):
                await stream.read(100, timeout=0.05)
        else:
            with anyio.move_on_after(0.05):
                await stream.read(100)
        released.set()
        with anyio.fail_after(10):
            assert await stream.read(100) == b"late"


def test_a_loop_without_add_reader_uses_anyio_streams() -> None:
    """As the proactor loop of Windows."""

    class Loop(asyncio.SelectorEventLoop):
        add_reader = asyncio.AbstractEventLoop.add_reader  # type: ignore[assignment]

    async def run() -> bytes:
        async def serve(stream: anyio.abc.ByteStream) -> None:
            await stream.send(b"here I am")

        async with connected(serve, tls=True) as stream:
            return await read_all(stream, push=True)

    got = anyio.run(run, backend="asyncio", backend_options={"loop_factory": Loop})
    assert got == b"here I am"


async def test_a_refused_connection_is_a_connect_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(httpcore.ConnectError):
        await SocketBackend().connect_tcp("127.0.0.1", port, timeout=5)


async def test_an_untrusted_certificate_is_a_connect_error_with_its_cause() -> None:
    async def serve(stream: anyio.abc.ByteStream) -> None:
        await anyio.sleep_forever()

    async with connected(serve, tls=False, server_tls=True) as stream:
        with pytest.raises(httpcore.ConnectError) as caught:
            await stream.start_tls(ssl.create_default_context(), "localhost", timeout=5)

    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)


async def test_a_missing_tls_handshake_is_a_connect_timeout() -> None:
    async def serve(stream: anyio.abc.ByteStream) -> None:
        await anyio.sleep_forever()

    async with connected(serve, tls=False) as stream:
        with pytest.raises(httpcore.ConnectTimeout):
            await stream.start_tls(CLIENT, "localhost", timeout=0.05)


async def test_is_readable_says_whether_data_has_arrived(tls: bool) -> None:
    """httpcore uses it to detect a pooled connection that the server has closed."""
    released = anyio.Event()

    async def serve(stream: anyio.abc.ByteStream) -> None:
        await released.wait()

    async with connected(serve, tls=tls) as stream:
        before = stream.get_extra_info("is_readable")
        released.set()
        with anyio.fail_after(10):
            while not stream.get_extra_info("is_readable"):  # noqa: ASYNC110 - there is no event to wait for
                await anyio.sleep(0.01)

    assert before is False or tls  # session tickets of TLS 1.3 may have arrived
    assert (stream.get_extra_info("ssl_object") is not None) is tls


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_connection_made_at_the_moment_of_a_cancellation_is_closed(
    anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[socket.socket] = []

    class Kept(socket.socket):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            opened.append(self)

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(asyncio_socket.socket, "socket", Kept)
        for steps in range(20):  # of the event loop, until the cancellation

            async def cancel(scope: anyio.CancelScope, steps: int = steps) -> None:
                for _ in range(steps):
                    await asyncio.sleep(0)
                scope.cancel()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cancel, tasks.cancel_scope)
                opened.clear()
                connection = await asyncio_socket.connect("127.0.0.1", port)
                await connection.aclose()
            assert [made for made in opened if made.fileno() >= 0] == []
