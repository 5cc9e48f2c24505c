"""The WebSocket client with a server of the `websockets` library as peer: asyncio and trio, plain and
TLS, compressed and not.

The server runs in its own threads, independent of the client's event loop.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from queue import Queue
from threading import Thread
from typing import Any

import anyio
import httpx
import pytest
import trustme
from tapeloom._network.websocket import dialer
from tapeloom.errors import ConnectionLost
from tapeloom.plugin import Endpoint, Link
from tapeloom.plugin.transports import MAX_MESSAGE_BYTES
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.sync.server import ServerConnection, serve

Behaviour = Callable[[ServerConnection], Any]
#: The extension that a server negotiates; None: no compression.
DEFLATES = {
    "plain": None,
    "deflate": ServerPerMessageDeflateFactory(),
    "no context": ServerPerMessageDeflateFactory(
        server_no_context_takeover=True, client_no_context_takeover=True
    ),
    "small window": ServerPerMessageDeflateFactory(
        server_max_window_bits=9, client_max_window_bits=9
    ),
}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=["ws", "wss"])
def context(request: pytest.FixtureRequest, authority: trustme.CA) -> ssl.SSLContext | None:
    return tls(authority) if request.param == "wss" else None


def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


class Server:
    """Runs *behave* for every connection and collects the results."""

    def __init__(self, behave: Behaviour) -> None:
        self.url = ""
        self.extensions: list[str | None] = []
        self._behave = behave
        self._results: Queue[Any] = Queue()

    def __call__(self, connection: ServerConnection) -> None:
        assert connection.response is not None
        self.extensions.append(connection.response.headers.get("Sec-WebSocket-Extensions"))
        try:
            self._results.put(self._behave(connection))
        except Exception as error:
            self._results.put(error)

    async def result(self) -> Any:
        """Return the result of *behave* of the next connection that has ended."""
        return await anyio.to_thread.run_sync(partial(self._results.get, timeout=20))


@contextmanager
def serving(
    behave: Behaviour, deflate: str = "plain", context: ssl.SSLContext | None = None
) -> Iterator[Server]:
    running = Server(behave)
    factory = DEFLATES[deflate]
    with serve(
        running, "127.0.0.1", 0, ssl=context, compression=None, ping_interval=None,
        extensions=[factory] if factory is not None else [], max_size=None, close_timeout=5,
    ) as server:  # fmt: skip
        scheme = "ws" if context is None else "wss"
        running.url = f"{scheme}://127.0.0.1:{server.socket.getsockname()[1]}/"
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield running
        finally:
            server.shutdown()
            thread.join()


@asynccontextmanager
async def dialled(
    server: Server, authority: trustme.CA, *, compressed: bool
) -> AsyncIterator[Link]:
    verify = ssl.create_default_context()
    authority.configure_trust(verify)
    async with (
        httpx.AsyncClient(verify=verify, trust_env=False) as client,
        dialer(client, "test", compressed=compressed)(Endpoint(url=server.url)) as link,
    ):
        with anyio.fail_after(60):
            yield link


async def collect(link: Link, count: int) -> list[bytes]:
    got: list[bytes] = []
    while len(got) < count:
        got += await link.receive()
    return got


async def end_of(link: Link) -> ConnectionLost:
    """Receive until the end."""
    with pytest.raises(ConnectionLost) as caught:
        while True:
            await link.receive()
    return caught.value


def close_of(connection: ServerConnection) -> tuple[int, str] | None:
    """Return code and reason of the client's close frame, after any messages."""
    try:
        while True:
            connection.recv(10)
    except ConnectionClosed as closed:
        return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd is not None else None


noise = random.Random(8)
LARGE = noise.randbytes(300_000)
#: Messages sent, whole or in fragments, and the payload expected.
SENT: list[tuple[str | bytes | list[str] | list[bytes], bytes]] = [
    ("", b""),
    (b"", b""),
    ("trade", b"trade"),
    ("größer ✓ 𝄞", "größer ✓ 𝄞".encode()),
    (b"\xff\x00\xfe", b"\xff\x00\xfe"),
    (["in ", "", "three"], b"in three"),
    ([b"\xff", b"\xfe" * 200, b""], b"\xff" + b"\xfe" * 200),
    *((size * "x", size * b"x") for size in (125, 126, 65535, 65536)),
    (LARGE, LARGE),
    ([LARGE[:1000], LARGE[1000:]], LARGE),
    *((text, text.encode()) for text in (f'{{"price":"{n / 7:.4f}"}}' for n in range(500))),
]


@pytest.mark.parametrize("deflate", DEFLATES)
async def test_messages_of_all_kinds_and_sizes_arrive_unchanged(
    deflate: str, context: ssl.SSLContext | None, authority: trustme.CA
) -> None:
    def behave(connection: ServerConnection) -> Any:
        for message, _ in SENT:
            connection.send(message)
        return close_of(connection)

    with serving(behave, deflate, context) as server:
        async with dialled(server, authority, compressed=True) as link:
            got = await collect(link, len(SENT))
        closed = await server.result()

    assert got == [expected for _, expected in SENT]
    assert closed == (1000, "")
    assert [bool(extension) for extension in server.extensions] == [deflate != "plain"]


async def test_compression_is_not_negotiated_unless_offered(authority: trustme.CA) -> None:
    with serving(lambda connection: connection.send("x" * 1000), "deflate") as server:
        async with dialled(server, authority, compressed=False) as link:
            assert await collect(link, 1) == [b"x" * 1000]

    assert server.extensions == [None]


@pytest.mark.parametrize("deflate", ["plain", "deflate"])
async def test_messages_of_the_client_arrive_and_its_ping_is_answered(
    deflate: str, context: ssl.SSLContext | None, authority: trustme.CA
) -> None:
    def behave(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with serving(behave, deflate, context) as server:
        async with dialled(server, authority, compressed=True) as link:
            await link.send('{"op":"größer"}')
            assert await collect(link, 1) == ['{"op":"größer"}'.encode()]
            await link.ping()
            assert await link.receive() == []


async def test_pings_between_the_fragments_of_a_message_are_answered(authority: trustme.CA) -> None:
    def behave(connection: ServerConnection) -> list[bool]:
        waiters = []

        def pieces() -> Iterator[str]:
            for number in range(5):
                waiters.append(connection.ping(f"{number}"))
                yield f"{number},"

        connection.send(pieces())
        return [waiter.wait(10) for waiter in waiters]

    with serving(behave, "deflate") as server:
        async with dialled(server, authority, compressed=True) as link:
            assert await collect(link, 1) == [b"0,1,2,3,4,"]
            assert await server.result() == [True] * 5


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (1001, "à bientôt"), (1012, "restart"), (4999, "x" * 123)]
)
async def test_a_close_frame_of_the_server_is_reported_and_answered(
    code: int, reason: str, context: ssl.SSLContext | None, authority: trustme.CA
) -> None:
    def behave(connection: ServerConnection) -> Any:
        connection.send("last")
        connection.close(code, reason)
        return connection.protocol.close_rcvd

    with serving(behave, "deflate", context) as server:
        async with dialled(server, authority, compressed=True) as link:
            assert await collect(link, 1) == [b"last"]
            lost = await end_of(link)
        answer = await server.result()

    assert (lost.code, answer.code) == (code, code)
    assert str(lost).endswith(f"{code} {reason}".rstrip())


@pytest.mark.parametrize("deflate", ["plain", "deflate"])
async def test_a_message_of_sixteen_mebibytes_is_accepted(
    deflate: str, authority: trustme.CA
) -> None:
    whole = LARGE * (MAX_MESSAGE_BYTES // len(LARGE)) + LARGE[: MAX_MESSAGE_BYTES % len(LARGE)]

    def behave(connection: ServerConnection) -> Any:
        connection.send("x" * MAX_MESSAGE_BYTES)
        connection.send([whole[:100], whole[100 : 1 << 20], whole[1 << 20 :]])
        return close_of(connection)

    with serving(behave, deflate) as server:
        async with dialled(server, authority, compressed=True) as link:
            assert await collect(link, 2) == [b"x" * MAX_MESSAGE_BYTES, whole]


BAD: dict[str, tuple[int, Sequence[bytes] | bytes]] = {
    "too large": (1009, b"x" * (MAX_MESSAGE_BYTES + 1)),
    "too large in pieces": (1009, [b"x" * MAX_MESSAGE_BYTES, b"x"]),
    "no text": (1007, b"caf\xe9"),
    "no text in pieces": (1007, [b"caf", b"\xe9", b"!"]),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("deflate", ["plain", "deflate"])
async def test_an_invalid_message_is_answered_with_its_close_code(
    case: str, deflate: str, authority: trustme.CA
) -> None:
    code, message = BAD[case]

    def behave(connection: ServerConnection) -> Any:
        connection.send("good")
        with suppress(ConnectionClosed):  # the client may close while it is being sent
            connection.send(message, text=True)
        return close_of(connection)

    with serving(behave, deflate) as server:
        async with dialled(server, authority, compressed=True) as link:
            assert await collect(link, 1) == [b"good"]
            lost = await end_of(link)
        closed = await server.result()

    assert lost.code == code
    # With megabytes in transit, the server may see the connection end without our close frame.
    assert closed is None if closed is None and code == 1009 else closed[0] == code


@pytest.mark.thorough
async def test_concurrent_connections_get_their_own_messages(authority: trustme.CA) -> None:
    def behave(connection: ServerConnection) -> Any:
        name = connection.recv(10)
        for number in range(1000):
            connection.send(f"{name} {number}" + "." * (number % 200))
        return close_of(connection)

    async def run_client(server: Server, name: str) -> None:
        async with dialled(server, authority, compressed=True) as link:
            await link.send(name)
            got = await collect(link, 1000)
        assert [text.rstrip(b".").decode() for text in got] == [f"{name} {n}" for n in range(1000)]
        done.append(name)

    done: list[str] = []
    with serving(behave, "deflate", tls(authority)) as server:
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(run_client, server, f"client {number}")

    assert len(done) == 8
