"""Core's own transport: its contract, and what is its own affair."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest
import trustme
from tapeloom import Stack
from tapeloom._config import Network as Settings
from tapeloom._stream import _client
from tapeloom._transport import dialer
from tapeloom.errors import ConnectionFailed
from tapeloom.feeds import Dial, Endpoint, Link, Network
from tapeloom.testing import FakeClient, FakeVenue
from tapeloom.testing.contract import TransportContract
from wsproto import events as ws


class TestCore(TransportContract):
    transport = "core"

    @asynccontextmanager
    async def dialling(self, network: Network) -> AsyncIterator[Dial]:
        stack = Stack(network=Settings(proxy=network.proxy, ca=network.ca))
        async with _client(stack) as client:
            yield dialer(client, "contract")


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


async def test_a_refused_connection_says_who_refused() -> None:
    venue = FakeVenue(_never)
    async with venue.serve():
        pass
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(ConnectionFailed, match="refused the connection") as caught:
            async with dialer(client, "test")(Endpoint(url=venue.url())):
                pass

    assert caught.value.retryable


async def _never(client: FakeClient) -> None:
    raise AssertionError("nobody can come")
