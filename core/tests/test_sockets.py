"""Sockets under httpcore, plain and TLS: what is sent comes, once, in order, and ends are told."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import httpcore
import pytest
import trustme
from anyio.streams.tls import TLSStream
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom._network.sockets import Sockets, Wire
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
    """Connect to a server that does *serve* with its end, after the handshake where it has *tls*."""

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
        stream = await Sockets().connect_tcp("127.0.0.1", port, timeout=5)
        try:
            if tls:
                stream = await stream.start_tls(CLIENT, "localhost", timeout=5)
            yield stream
        finally:
            await stream.aclose()
            tasks.cancel_scope.cancel()


async def everything(stream: httpcore.AsyncNetworkStream, *, push: bool = False) -> bytes:
    parts: list[bytes] = []
    with anyio.fail_after(60):
        if push:
            assert isinstance(stream, Wire)
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


async def test_what_is_sent_comes_back_whole(tls: bool, push: bool) -> None:
    """More than fits into a record, a socket's memory or a read."""
    sent = bytes(range(256)) * 8192

    async def echo(stream: anyio.abc.ByteStream) -> None:
        for _ in range(0, len(sent), 65536):
            await stream.send(sent[:65536])
        got = 0
        while got < len(sent):
            got += len(await stream.receive())

    async with connected(echo, tls=tls) as stream, anyio.create_task_group() as tasks:
        tasks.start_soon(stream.write, sent)
        got = await everything(stream, push=push)

    assert got == sent


async def test_one_read_brings_every_record_that_has_come() -> None:
    """Venues send a record for each frame; a read for each would cost more than all the rest."""

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
def test_however_it_is_cut_the_bytes_are_the_same(
    pieces: list[bytes], most: int, tls: bool
) -> None:
    """Read in parts of *most* bytes; or, where that is 0, pushed."""

    async def run() -> None:
        async def serve(stream: anyio.abc.ByteStream) -> None:
            for piece in pieces:
                await stream.send(piece)

        async with connected(serve, tls=tls) as stream:
            parts = [] if most else [await everything(stream, push=True)]
            with anyio.fail_after(60):
                while most and (part := await stream.read(most)):
                    assert len(part) <= most
                    parts.append(part)

        assert b"".join(parts) == b"".join(pieces)

    backend, options = virtual_backend("asyncio")
    anyio.run(run, backend=backend, backend_options=options)


@pytest.mark.parametrize("word", [True, False], ids=["with a word", "without a word"])
async def test_the_end_of_tls_is_the_end_after_all_that_came_before(word: bool, push: bool) -> None:
    async def serve(stream: anyio.abc.ByteStream) -> None:
        await stream.send(b"the last words")
        if word:
            assert isinstance(stream, TLSStream)
            with anyio.move_on_after(1):
                await stream.unwrap()

    async with connected(serve, tls=True) as stream:
        assert await stream.read(1 << 18) == b"the last words"
        assert await everything(stream, push=push) == b""
        assert await stream.read(10) == b""  # and it stays so


async def test_a_reset_is_an_error_and_no_end(tls: bool, push: bool) -> None:
    async def serve(stream: anyio.abc.ByteStream) -> None:
        raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await stream.aclose()

    async with connected(serve, tls=tls) as stream:
        with pytest.raises(httpcore.ReadError):
            await everything(stream, push=push)
        with pytest.raises(httpcore.WriteError):
            for _ in range(3):
                await stream.write(b"anybody there?", timeout=1)


async def test_bytes_that_are_no_tls_are_an_error(push: bool) -> None:
    async def serve(stream: anyio.abc.ByteStream) -> None:
        assert isinstance(stream, TLSStream)
        await stream.transport_stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await anyio.sleep_forever()

    async with connected(serve, tls=True) as stream:
        with pytest.raises(httpcore.ReadError):
            await everything(stream, push=push)


async def test_nothing_is_pushed_while_an_answer_is_awaited(tls: bool) -> None:
    story: list[bytes] = []
    told, done = anyio.Event(), anyio.Event()

    async def serve(stream: anyio.abc.ByteStream) -> None:
        await stream.send(b"one")
        await told.wait()
        await stream.send(b"two")
        await anyio.sleep(0.05)  # so that it could have come
        story.append(b"sent")
        done.set()

    async def slow() -> None:
        told.set()
        await done.wait()
        story.append(b"awaited")

    def take(data: bytes) -> Awaitable[None] | None:
        story.append(data)
        return slow() if data == b"one" else None

    async with connected(serve, tls=tls) as stream:
        assert isinstance(stream, Wire)
        with anyio.fail_after(10):
            await stream.push_to(take)

    assert story == [b"one", b"sent", b"awaited", b"two"]


async def test_what_is_raised_over_what_was_pushed_comes_out_and_the_rest_can_be_read(
    tls: bool,
) -> None:
    told = anyio.Event()

    async def serve(stream: anyio.abc.ByteStream) -> None:
        await stream.send(b"one")
        await told.wait()
        await stream.send(b"two")
        await anyio.sleep_forever()

    def take(data: bytes) -> None:
        raise ValueError(data.decode())

    async with connected(serve, tls=tls) as stream:
        assert isinstance(stream, Wire)
        with anyio.fail_after(10), pytest.raises(ValueError, match="one"):
            await stream.push_to(take)
        told.set()
        with anyio.fail_after(10):
            assert await stream.read(100) == b"two"


async def test_a_push_that_is_given_up_costs_no_byte(tls: bool) -> None:
    asked, got = anyio.Event(), bytearray()

    async def serve(stream: anyio.abc.ByteStream) -> None:
        await stream.send(b"early")
        await asked.wait()
        await stream.send(b"late")
        await anyio.sleep_forever()

    async with connected(serve, tls=tls) as stream:
        assert isinstance(stream, Wire)
        with anyio.move_on_after(0.1):
            await stream.push_to(got.extend)
        asked.set()
        with anyio.fail_after(10):
            assert await stream.read(100) == b"late"

    assert got == b"early"


async def test_closing_ends_who_waits_for_more(tls: bool) -> None:
    async def serve(stream: anyio.abc.ByteStream) -> None:
        await anyio.sleep_forever()

    async with connected(serve, tls=tls) as stream, anyio.create_task_group() as tasks:

        async def wait() -> None:
            with pytest.raises(httpcore.ReadError):
                await everything(stream, push=True)

        tasks.start_soon(wait)
        await anyio.sleep(0.05)
        await stream.aclose()


@pytest.mark.parametrize("how", ["refuses", "never answers"])
async def test_an_address_that_does_not_serve_leaves_the_next_one(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name has two addresses."""
    with socket.create_server(("127.0.0.1", 0)) as good:
        port = good.getsockname()[1]
        bad = socket.create_server(("127.0.0.2", port), backlog=0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:  # until its queue is full
            one.setblocking(False)
            one.connect_ex(("127.0.0.2", port))
        if how == "refuses":
            bad.close()
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("127.0.0.2", "127.0.0.1")
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **named: found)
        try:
            stream = await Sockets().connect_tcp("venue.test", port, timeout=5)
            assert stream.get_extra_info("server_addr") == ("127.0.0.1", port)
            await stream.aclose()
        finally:
            for one in (bad, *waiting):
                one.close()


@pytest.mark.parametrize("own", [True, False], ids=["its deadline", "its caller"])
async def test_a_read_that_is_given_up_costs_no_byte(own: bool, tls: bool) -> None:
    asked = anyio.Event()

    async def serve(stream: anyio.abc.ByteStream) -> None:
        await asked.wait()
        await stream.send(b"late")
        await anyio.sleep_forever()

    async with connected(serve, tls=tls) as stream:
        if own:
            with pytest.raises(httpcore.ReadTimeout):
                await stream.read(100, timeout=0.05)
        else:
            with anyio.move_on_after(0.05):
                await stream.read(100)
        asked.set()
        with anyio.fail_after(10):
            assert await stream.read(100) == b"late"


def test_a_loop_that_watches_no_sockets_has_the_streams_of_anyio() -> None:
    """As that of Windows."""

    class Loop(asyncio.SelectorEventLoop):
        add_reader = asyncio.AbstractEventLoop.add_reader  # type: ignore[assignment]

    async def run() -> bytes:
        async def serve(stream: anyio.abc.ByteStream) -> None:
            await stream.send(b"here I am")

        async with connected(serve, tls=True) as stream:
            return await everything(stream, push=True)

    got = anyio.run(run, backend="asyncio", backend_options={"loop_factory": Loop})
    assert got == b"here I am"


async def test_nobody_listening_is_a_connect_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(httpcore.ConnectError):
        await Sockets().connect_tcp("127.0.0.1", port, timeout=5)


async def test_a_certificate_that_is_not_trusted_is_a_connect_error_that_says_why() -> None:
    async def serve(stream: anyio.abc.ByteStream) -> None:
        await anyio.sleep_forever()

    async with connected(serve, tls=False, server_tls=True) as stream:
        with pytest.raises(httpcore.ConnectError) as caught:
            await stream.start_tls(ssl.create_default_context(), "localhost", timeout=5)

    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)


async def test_a_server_that_never_shakes_hands_is_a_connect_timeout() -> None:
    async def serve(stream: anyio.abc.ByteStream) -> None:
        await anyio.sleep_forever()

    async with connected(serve, tls=False) as stream:
        with pytest.raises(httpcore.ConnectTimeout):
            await stream.start_tls(CLIENT, "localhost", timeout=0.05)


async def test_it_tells_whether_something_has_come(tls: bool) -> None:
    """So httpcore knows a connection that the server has closed meanwhile."""
    asked = anyio.Event()

    async def serve(stream: anyio.abc.ByteStream) -> None:
        await asked.wait()

    async with connected(serve, tls=tls) as stream:
        before = stream.get_extra_info("is_readable")
        asked.set()
        with anyio.fail_after(10):
            while not stream.get_extra_info("is_readable"):  # noqa: ASYNC110 - nobody tells
                await anyio.sleep(0.01)

    assert before is False or tls  # tickets of TLS 1.3 may lie there
    assert (stream.get_extra_info("ssl_object") is not None) is tls
