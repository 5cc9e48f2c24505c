"""Tests of `PicowsLink` beyond the contract: pushing inside a read, and a peer that does not read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import anyio
import pytest
from tapeloom.errors import ConnectionLost, StageFailed
from tapeloom.plugin import Endpoint, Network, PushLink
from tapeloom_picows.dial import PicowsDial
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
        PicowsDial("f", Network(), VirtualClock())(Endpoint(url=venue.url())) as link,
    ):
        yield link


async def send_numbers(client: FakeClient) -> None:
    for n in range(1000):
        await client.send(str(n))
    await client.close(1001)


async def test_an_exception_of_the_callback_is_raised_by_push_to() -> None:
    def on_read(batch: list[bytes]) -> None:
        raise StageFailed("f", "bars", ValueError("no"))

    async with dialled(send_numbers) as link:
        assert isinstance(link, PushLink)
        with pytest.raises(StageFailed, match="bars"):
            await link.push_to(on_read)


async def test_a_returned_awaitable_is_awaited_before_the_next_batch() -> None:
    log: list[str] = []

    async def wait(name: str) -> None:
        log.append(f"start {name}")
        await anyio.sleep(0.001)
        log.append(f"end {name}")

    def on_read(batch: list[bytes]) -> Awaitable[None] | None:
        log.extend(message.decode() for message in batch)
        return wait(batch[-1].decode()) if batch else None

    async with dialled(send_numbers) as link:
        with pytest.raises(ConnectionLost, match="1001"):
            await link.push_to(on_read)

    assert [entry for entry in log if entry.isdigit()] == [str(n) for n in range(1000)]
    for index, entry in enumerate(log):
        if entry.startswith("start"):
            assert log[index + 1] == entry.replace("start", "end")


async def test_a_returned_awaitable_is_awaited_even_if_the_reader_is_cancelled() -> None:
    done: list[int] = []

    async def wait(number: int) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.01)
        done.append(number)

    async with dialled(send_numbers) as link:
        calls: list[int] = []
        with anyio.CancelScope() as scope:

            def on_read(batch: list[bytes]) -> Awaitable[None]:
                calls.append(len(calls))
                scope.cancel()
                return wait(calls[-1])

            await link.push_to(on_read)

    assert done == calls == [0]


async def test_a_peer_that_pings_and_reads_nothing_is_not_read() -> None:
    sent = 0

    async def script(client: FakeClient) -> None:
        nonlocal sent
        pings = framed(bytes(125), 0x89) * 500
        # After its first wait for data, the stream does not read ahead any more.
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
            assert sent < 256 * 1024 * 1024  # more than the buffers of the operating system hold
            await anyio.sleep(0.3)
        tasks.cancel_scope.cancel()
