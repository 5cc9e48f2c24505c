"""The clock of a live stream."""

from __future__ import annotations

import time

import anyio
from tapeloom._clock import SystemClock
from tapeloom.feeds import Clock


def test_it_keeps_the_time_of_the_machine() -> None:
    clock: Clock = SystemClock()
    before, now, after = time.time_ns(), clock.time_ns(), time.time_ns()

    assert before <= now <= after
    assert isinstance(now, int)


def test_its_seconds_never_go_back() -> None:
    clock = SystemClock()
    readings = [clock.monotonic() for _ in range(1000)]

    assert readings == sorted(readings)


async def test_it_waits_no_less_than_asked_and_can_be_given_up_on() -> None:
    clock = SystemClock()
    began = clock.monotonic()
    await clock.sleep(0.01)
    waited = clock.monotonic() - began
    with anyio.move_on_after(0.01) as scope:
        await clock.sleep(60)

    assert waited >= 0.009
    assert scope.cancelled_caught
