"""The settings `max_batch_delay` (fewer, larger reads) and `gc_threshold` (fewer collections)."""

from __future__ import annotations

import gc
from typing import Any

import anyio
import pytest
import tapeloom
from tapeloom import FeedSpec, Process, Registry, Stack, Status
from tapeloom._runtime.system_clock import SystemClock
from tapeloom.plugin import Endpoint
from tapeloom_testing import FakeWire, VirtualClock, WireEnd


def feed(**more: Any) -> FeedSpec:
    return FeedSpec("acme", ("BTC/USD",), ("trades",), **more)


@pytest.mark.parametrize(("delay", "pauses"), [(0.0, 0), (0.015, 3)])
async def test_reads_are_max_batch_delay_apart_and_nothing_is_lost(
    delay: float, pauses: int, registry: Registry
) -> None:
    slept: list[float] = []

    class Watched(SystemClock):
        async def sleep(self, seconds: float) -> None:
            slept.append(seconds)
            await super().sleep(seconds)

    async def venue(end: WireEnd, endpoint: Endpoint) -> None:
        await end.take()
        end.push('{"ok": 1}')
        for n in range(3):
            end.push(f'{{"s": "BTCUSD", "t": {n + 1}, "p": "{n}", "q": "2", "i": {n}}}')
        await anyio.sleep_forever()

    wire = FakeWire(venue)
    stack = Stack(feeds=(feed(max_batch_delay=delay),))
    prices: list[str] = []
    async with tapeloom.open(
        stack, registry=registry, clock=Watched(), dial=wire.dial, seed=0
    ) as stream:
        with anyio.fail_after(10):
            async for event in stream:
                if type(event) is not Status:
                    prices.append(str(getattr(event, "price", event)))
                if len(prices) == 3:
                    break

    assert prices == ["0", "1", "2"]
    # After the answer to the subscription, and after each trade; after the last it may be on its way.
    assert slept.count(0.015) in (pauses, pauses + bool(pauses))


@pytest.mark.parametrize("delay", [-0.1, 1.5, True, "1ms"])
def test_an_invalid_max_batch_delay_is_a_config_error(delay: Any) -> None:
    with pytest.raises(tapeloom.errors.ConfigError, match="expected seconds from 0 to 1"):
        feed(max_batch_delay=delay)


@pytest.mark.parametrize("threshold", [-1, 0.5, True])
def test_an_invalid_gc_threshold_is_a_config_error(threshold: Any) -> None:
    with pytest.raises(tapeloom.errors.ConfigError, match="expected a whole number from 0 on"):
        Process(gc_threshold=threshold)


async def test_the_gc_is_tuned_while_the_stream_is_open_and_restored_after(
    registry: Registry,
) -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    stack = Stack(feeds=(feed(),), process=Process(gc_threshold=50_000))
    async with tapeloom.open(stack, registry=registry, clock=VirtualClock()):
        inside = gc.get_threshold(), gc.get_freeze_count()

    assert inside[0] == (50_000, *before[1:])
    assert inside[1] > frozen
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


async def test_the_gc_is_not_changed_without_gc_threshold(registry: Registry) -> None:
    before = gc.get_threshold()
    async with tapeloom.open(Stack(feeds=(feed(),)), registry=registry, clock=VirtualClock()):
        assert gc.get_threshold() == before
