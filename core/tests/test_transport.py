"""The transport against a server on a loopback socket, plain and TLS, asyncio and trio."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest
import trustme
from tapeloom._transport import dialer
from tapeloom.errors import ConnectionFailed, ConnectionLost, Throttled
from tapeloom.feeds import Endpoint, Link
from tapeloom.testing import FakeClient, FakeVenue
from wsproto import events as ws


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=["plain", "tls"])
def context(request: pytest.FixtureRequest, authority: trustme.CA) -> ssl.SSLContext | None:
    if request.param == "plain":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@asynccontextmanager
async def dialled(venue: FakeVenue, authority: trustme.CA | None = None) -> AsyncIterator[Link]:
    verify = ssl.create_default_context()
    if authority is not None:
        authority.configure_trust(verify)
    async with (
        venue.serve(),
        httpx.AsyncClient(verify=verify, trust_env=False) as client,
        dialer(client, "test")(Endpoint(url=venue.url())) as link,
    ):
        yield link


async def collect(link: Link, count: int) -> list[bytes]:
    got: list[bytes] = []
    with anyio.fail_after(10):
        while len(got) < count:
            got += await link.receive()
    return got


async def wait_closed(client: FakeClient) -> None:
    with anyio.fail_after(10):
        while not isinstance(await client.receive(), ws.CloseConnection):
            pass


async def test_frames_of_one_write_arrive_together_in_order(
    context: ssl.SSLContext | None, authority: trustme.CA
) -> None:
    texts = [f'{{"n":{n}}}' for n in range(500)]

    async def script(client: FakeClient) -> None:
        await client.send(*texts)
        await wait_closed(client)

    async with dialled(FakeVenue(script, context=context), authority) as link:
        first = await link.receive()
        got = first + await collect(link, len(texts) - len(first))

    assert [one.decode() for one in got] == texts
    assert len(first) > 10


async def test_many_small_tls_records_are_all_read(authority: trustme.CA) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    texts = [str(n) for n in range(3000)]

    async def script(client: FakeClient) -> None:
        for text in texts:
            await client.send(text)
        await wait_closed(client)

    async with dialled(FakeVenue(script, context=context), authority) as link:
        got = await collect(link, len(texts))

    assert [one.decode() for one in got] == texts


async def test_a_ping_is_answered_with_its_payload() -> None:
    seen: list[ws.Event] = []

    async def script(client: FakeClient) -> None:
        await client.send_event(ws.Ping(b"1699"))
        seen.append(await client.receive())
        await client.send("done")
        await wait_closed(client)

    async with dialled(FakeVenue(script)) as link:
        assert await collect(link, 1) == [b"done"]

    assert isinstance(seen[0], ws.Pong)
    assert seen[0].payload == b"1699"


async def test_what_came_before_a_close_frame_is_delivered_before_the_end_is_told() -> None:
    async def script(client: FakeClient) -> None:
        await client.send("last")
        await client.close(1001, "maintenance")
        await wait_closed(client)

    async with dialled(FakeVenue(script)) as link:
        got = await collect(link, 1)
        with pytest.raises(ConnectionLost, match="1001 maintenance") as caught:
            while True:
                await link.receive()

    assert got == [b"last"]
    assert caught.value.code == 1001


async def test_an_end_without_a_close_frame_is_told() -> None:
    async def script(client: FakeClient) -> None:
        await client.send("x")

    async with dialled(FakeVenue(script)) as link:
        await collect(link, 1)
        with pytest.raises(ConnectionLost):
            await link.receive()


async def test_a_peer_that_breaks_the_protocol_is_closed_on_and_told_why() -> None:
    closes: list[ws.Event] = []

    async def script(client: FakeClient) -> None:
        await client.send_bytes(b"\x81\x02ok\xc1\x01x")
        closes.append(await client.receive())

    async with dialled(FakeVenue(script)) as link:
        got = await collect(link, 1)
        with pytest.raises(ConnectionLost, match="reserved bits"):
            await link.receive()

    assert got == [b"ok"]
    assert isinstance(closes[0], ws.CloseConnection)
    assert closes[0].code == 1002


async def test_leaving_sends_a_close_frame() -> None:
    closes: list[ws.Event] = []

    async def script(client: FakeClient) -> None:
        closes.append(await client.receive())
        done.set()

    done = anyio.Event()
    venue = FakeVenue(script)
    async with venue.serve(), httpx.AsyncClient(trust_env=False) as client:
        async with dialler(client, venue):
            pass
        with anyio.fail_after(5):
            await done.wait()

    assert isinstance(closes[0], ws.CloseConnection)
    assert closes[0].code == 1000


def dialler(client: httpx.AsyncClient, venue: FakeVenue):
    return dialer(client, "test")(Endpoint(url=venue.url()))


async def never(client: FakeClient) -> None:
    await anyio.sleep_forever()


async def test_a_refused_connection_says_who_refused() -> None:
    venue = FakeVenue(never)
    async with venue.serve():
        pass
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(ConnectionFailed, match="refused the connection") as caught:
            async with dialler(client, venue):
                pass

    assert caught.value.retryable


async def test_an_untrusted_certificate_is_permanent_and_names_the_remedy(
    authority: trustme.CA,
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with pytest.raises(ConnectionFailed, match=r'not trusted.*ca = "file\.pem"') as caught:
        async with dialled(FakeVenue(never, context=context)):
            pass

    assert not caught.value.retryable


async def test_an_unknown_host_says_so() -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(ConnectionFailed, match=r"nowhere\.invalid"):
            async with dialer(client, "test")(Endpoint(url="ws://nowhere.invalid/ws")):
                pass


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [(404, ConnectionFailed, False), (503, ConnectionFailed, True), (429, Throttled, True)],
)
async def test_a_refused_handshake_is_told_by_its_status(
    status: int, kind: type[Exception], retryable: bool
) -> None:
    venue = FakeVenue(never, upgrade=(status, {"retry-after": "7"}, b""))
    with pytest.raises(kind, match=str(status)) as caught:
        async with dialled(venue):
            pass

    assert caught.value.retryable is retryable  # type: ignore[attr-defined]
    if isinstance(caught.value, Throttled):
        assert caught.value.retry_after == 7


@pytest.mark.parametrize("url", ["nonsense://x/ws", "ws://", "ws://[::1/ws", "ws://x:port/"])
async def test_an_address_that_is_none_is_permanent_and_says_what_is_expected(url: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(ConnectionFailed, match="wss://") as caught:
            async with dialer(client, "test")(Endpoint(url=url)):
                pass

    assert not caught.value.retryable
