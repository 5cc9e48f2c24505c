"""Virtual loops: hours pass at once, sockets are waited for, threads take no time."""

from __future__ import annotations

import time
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.abc import SocketStream
from tapeloom_testing import LoopClock, virtual_backend


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return virtual_backend(request.param)


async def test_a_day_takes_no_time() -> None:
    began = time.monotonic()
    with anyio.move_on_after(3600) as scope:
        await anyio.sleep(86_400)
    await anyio.sleep(82_800)

    assert scope.cancelled_caught
    assert anyio.current_time() == pytest.approx(86_400, abs=0.001)
    assert time.monotonic() - began < 5


async def test_the_clock_tells_the_loop_s_time() -> None:
    clock = LoopClock(1_000)
    before = clock.time_ns(), clock.monotonic()
    await clock.sleep(2.5)

    assert clock.time_ns() - before[0] == pytest.approx(2_500_000_000, abs=1_000_000)
    assert clock.monotonic() - before[1] == pytest.approx(2.5, abs=0.001)


async def test_what_goes_over_a_socket_arrives_before_time_moves_on() -> None:
    async def echo(client: SocketStream) -> None:
        async with client:
            async for data in client:
                await client.send(data)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, echo)
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            for number in range(200):
                with anyio.fail_after(0.05):
                    await stream.send(b"%d" % number)
                    assert await stream.receive() == b"%d" % number
                await anyio.sleep(10)
        tasks.cancel_scope.cancel()

    assert anyio.current_time() == pytest.approx(2000, abs=1)


@pytest.mark.parametrize("anyio_backend", [virtual_backend("asyncio")], ids=["asyncio"])
async def test_a_thread_is_waited_for() -> None:
    with anyio.fail_after(0.01):
        await anyio.to_thread.run_sync(time.sleep, 0.1)
