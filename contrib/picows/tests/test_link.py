"""What is picows' own affair: handing over from within a read, and a peer that does not read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import anyio
import pytest
from tapeloom.errors import ConnectionLost, StageFailed
from tapeloom.plugin import Endpoint, Network, PushLink
from tapeloom_picows.dial import Dialler
from tapeloom_picows.link import PicowsLink
from tapeloom_testing import FakeClient, FakeVenue, VirtualClock
from tapeloom_testing.contract.readers import framed


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def dialled(script) -> AsyncIterator[PicowsLink]:
    venue = FakeVenue(script)
    async with (
        venue.serve(),
        Dialler("f", Network(), VirtualClock())(Endpoint(url=venue.url())) as link,
    ):
        yield link


async def speaking(client: FakeClient) -> None:
    for n in range(1000):
        await client.send(str(n))
    await client.close(1001)


async def test_what_taking_raises_is_raised_where_the_link_is_read() -> None:
    def take(batch: list[bytes]) -> None:
        raise StageFailed("f", "bars", ValueError("no"))

    async with dialled(speaking) as link:
        assert isinstance(link, PushLink)
        with pytest.raises(StageFailed, match="bars"):
            await link.push_to(take)


async def test_what_is_to_be_awaited_is_awaited_before_anything_else_is_taken() -> None:
    story: list[str] = []

    async def wait(name: str) -> None:
        story.append(f"waits for {name}")
        await anyio.sleep(0.001)
        story.append(f"has waited for {name}")

    def take(batch: list[bytes]) -> Awaitable[None] | None:
        story.extend(one.decode() for one in batch)
        return wait(batch[-1].decode()) if batch else None

    async with dialled(speaking) as link:
        with pytest.raises(ConnectionLost, match="1001"):
            await link.push_to(take)

    assert [one for one in story if one.isdigit()] == [str(n) for n in range(1000)]
    for place, one in enumerate(story):
        if one.startswith("waits"):
            assert story[place + 1] == f"has {one}".replace("waits", "waited")


async def test_what_is_to_be_awaited_is_awaited_by_a_reader_that_is_cancelled() -> None:
    done: list[int] = []

    async def wait(number: int) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.01)
        done.append(number)

    async with dialled(speaking) as link:
        taken: list[int] = []
        with anyio.CancelScope() as scope:

            def take(batch: list[bytes]) -> Awaitable[None]:
                taken.append(len(taken))
                scope.cancel()
                return wait(taken[-1])

            await link.push_to(take)

    assert done == taken == [0]


async def test_a_peer_that_pings_and_reads_nothing_is_not_read() -> None:
    sent = 0

    async def script(client: FakeClient) -> None:
        nonlocal sent
        pings = framed(bytes(125), 0x89) * 500
        # A stream that has waited for something to read does not read by itself any longer.
        await client.send("ready")
        await client.receive_text()
        while True:
            await client.send_bytes(pings)
            sent += len(pings)

    async def read(link: PicowsLink) -> None:
        await link.push_to(lambda batch: None)

    async with dialled(script) as link, anyio.create_task_group() as tasks:
        await link.receive()
        await link.send("go")
        tasks.start_soon(read, link)
        before = -1
        while sent != before:
            before = sent
            assert sent < 256 * 1024 * 1024  # more than the machine's own buffers hold
            await anyio.sleep(0.3)
        tasks.cancel_scope.cancel()
