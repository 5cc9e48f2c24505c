"""Rate limits in virtual time."""

from __future__ import annotations

from itertools import pairwise

import anyio
import pytest
from tapeloom._runtime.rate_limits import RateLimit, RateLimits
from tapeloom.units import Rate
from tapeloom_testing import VirtualClock


@pytest.mark.parametrize("count", [1, 3, 5])
async def test_no_window_of_the_rate_holds_more_than_the_rate_allows(count: int) -> None:
    clock = VirtualClock()
    limit = RateLimit(Rate(count, 1.0), clock)
    times = []
    async with clock.running():
        for n in range(40):
            await limit.acquire()
            times.append(clock.monotonic())
            if n == 20:
                await clock.sleep(10)

    for start in times:
        assert sum(start <= t < start + 1.0 for t in times) <= count
    assert all(a <= b for a, b in pairwise(times))


async def test_waiting_takes_no_longer_than_the_rate_demands() -> None:
    clock = VirtualClock()
    limit = RateLimit(Rate(5, 1.0), clock)
    async with clock.running():
        for _ in range(11):
            await limit.acquire()

    assert clock.monotonic() == pytest.approx(2.0, abs=0.01)


async def test_weights_add_up() -> None:
    clock = VirtualClock()
    limit = RateLimit(Rate(100, 60.0), clock)
    async with clock.running():
        await limit.acquire(60)
        await limit.acquire(40)
        before = clock.monotonic()
        await limit.acquire(50)

    assert before == 0
    assert clock.monotonic() == pytest.approx(60, abs=0.1)


async def test_a_weight_above_the_limit_uses_the_whole_limit() -> None:
    clock = VirtualClock()
    limit = RateLimit(Rate(10, 1.0), clock)
    async with clock.running():
        await limit.acquire(99)
        await limit.acquire(1)

    assert clock.monotonic() == pytest.approx(1, abs=0.01)


async def test_a_pause_holds_for_all_who_wait() -> None:
    clock = VirtualClock()
    limit = RateLimit(Rate(10, 1.0), clock)
    limit.pause(30)
    async with clock.running(), anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(limit.acquire)

    assert clock.monotonic() == pytest.approx(30, abs=0.01)


def test_a_limit_belongs_to_a_host_and_a_purpose() -> None:
    limits = RateLimits(VirtualClock())
    rate = Rate(1, 1.0)
    dial_limit = limits.limit("wss://a.example/ws", "dial", rate)

    assert dial_limit is limits.limit("wss://a.example/other", "dial", rate)
    assert dial_limit is not limits.limit("wss://b.example/ws", "dial", rate)
    assert dial_limit is not limits.limit("wss://a.example/ws", "rest", rate)
    assert limits.limit("wss://a.example/ws", "dial", None) is None
