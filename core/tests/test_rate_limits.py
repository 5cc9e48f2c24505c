"""Rate limits in virtual time."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import anyio
import pytest
from tapeloom._runtime.rate_limits import LimitPaused, RateLimit, RateLimits
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

    assert clock.monotonic() == pytest.approx(2.2, abs=0.01)  # 0.1 s a window for the network


async def test_weights_add_up() -> None:
    clock = VirtualClock()
    limit = RateLimit(Rate(100, 60.0), clock)
    async with clock.running():
        await limit.acquire(60)
        await limit.acquire(40)
        before = clock.monotonic()
        await limit.acquire(50)

    assert before == 0
    assert clock.monotonic() == pytest.approx(60.1, abs=0.01)


async def test_a_weight_above_the_limit_uses_the_whole_limit() -> None:
    clock = VirtualClock()
    limit = RateLimit(Rate(10, 1.0), clock)
    async with clock.running():
        await limit.acquire(99)
        await limit.acquire(1)

    assert clock.monotonic() == pytest.approx(1.1, abs=0.01)


async def test_a_pause_holds_for_all_who_wait() -> None:
    clock = VirtualClock()
    limit = RateLimit(Rate(10, 1.0), clock)
    limit.pause(30)
    async with clock.running(), anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(limit.acquire)

    assert clock.monotonic() == pytest.approx(30, abs=0.01)


async def test_a_reserve_is_left_to_others_who_get_it_at_once() -> None:
    """Backfill for half an hour; a book that breaks meanwhile does not wait behind it."""
    clock = VirtualClock()
    limit = RateLimit(Rate(100, 60.0), clock)
    waited = []

    async def backfill() -> None:
        while True:
            await limit.acquire(5, reserve=20)

    async with clock.running(), anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(backfill)
        for _ in range(10):
            await clock.sleep(181.7)
            before = clock.monotonic()
            await limit.acquire(20, urgent=True)
            waited.append(clock.monotonic() - before)
        tasks.cancel_scope.cancel()

    assert waited == [0.0] * 10


async def test_a_large_urgent_weight_does_not_wait_behind_small_ones() -> None:
    clock = VirtualClock()
    limit = RateLimit(Rate(10, 1.0), clock)
    served = []

    async def use(name: str, weight: int, *, urgent: bool = False) -> None:
        await limit.acquire(weight, urgent=urgent)
        served.append((name, round(clock.monotonic(), 1)))

    async with clock.running(), anyio.create_task_group() as tasks:
        for n in range(14):
            tasks.start_soon(use, f"small {n}", 1)
        await clock.sleep(0.5)
        tasks.start_soon(partial(use, urgent=True), "large", 10)

    assert ("large", 1.1) in served
    assert sum(at == 2.2 for _, at in served) == 4


async def test_a_weight_larger_than_what_the_reserve_leaves_is_served_when_nothing_is_used() -> (
    None
):
    clock = VirtualClock()
    limit = RateLimit(Rate(10, 1.0), clock)
    async with clock.running():
        await limit.acquire(1)
        await limit.acquire(10, reserve=2)

    assert clock.monotonic() == pytest.approx(1.1, abs=0.01)


async def test_a_pause_longer_than_a_caller_waits_is_raised_to_all_who_wait() -> None:
    clock = VirtualClock()
    limit = RateLimit(Rate(1, 10.0), clock)
    left = []

    async def use() -> None:
        with pytest.raises(LimitPaused) as caught:
            await limit.acquire(longest_pause=600)
        left.append(round(caught.value.seconds))

    async with clock.running():
        await limit.acquire()
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(use)
            await clock.sleep(5)
            limit.pause(86_400)

    assert left == [86_395] * 3


async def test_a_shared_limit_and_the_own_one_both_hold() -> None:
    clock = VirtualClock()
    host = RateLimit(Rate(5, 10.0), clock)
    limits = [RateLimit(Rate(2, 1.0), clock, host) for _ in range(2)]
    times: list[tuple[int, float]] = []

    async def send(number: int) -> None:
        for _ in range(10):
            await limits[number].acquire()
            times.append((number, clock.monotonic()))

    async with clock.running(), anyio.create_task_group() as tasks:
        tasks.start_soon(send, 0)
        tasks.start_soon(send, 1)

    for _, start in times:
        assert sum(start <= at < start + 10.0 for _, at in times) <= 5
        for number in (0, 1):
            own = [at for sender, at in times if sender == number]
            assert sum(start <= at < start + 1.0 for at in own) <= 2
    assert clock.monotonic() <= 3 * 10.1 + 2 * 1.1 + 0.01


def test_a_limit_belongs_to_a_host_and_a_purpose() -> None:
    limits = RateLimits(VirtualClock())
    rate = Rate(1, 1.0)
    dial_limit = limits.limit("wss://a.example/ws", "dial", rate)

    assert dial_limit is limits.limit("wss://a.example/other", "dial", rate)
    assert dial_limit is not limits.limit("wss://b.example/ws", "dial", rate)
    assert dial_limit is not limits.limit("wss://a.example/ws", "rest", rate)
    assert limits.limit("wss://a.example/ws", "dial", None) is None
