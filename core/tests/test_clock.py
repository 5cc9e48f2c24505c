"""The system clock, deadlines and clock step detection, also when the wall clock is set."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import anyio
import pytest
import tapeloom
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom import Event, FeedSpec, Gap, Registry, Status, Trade
from tapeloom._gaps.last_seen import LastSeen
from tapeloom._runtime.system_clock import SystemClock
from tapeloom.plugin import (
    Clock,
    ClockStepDetector,
    Endpoint,
    Subscription,
    TimeLimit,
    TradeBatch,
    WallDeadline,
)
from tapeloom_testing import FakeWire, VirtualClock, WireEnd


def test_the_system_clock_returns_the_time_of_the_machine() -> None:
    clock: Clock = SystemClock()
    before, now, after = time.time_ns(), clock.time_ns(), time.time_ns()

    assert before <= now <= after
    assert isinstance(now, int)


def test_monotonic_seconds_never_go_back() -> None:
    clock = SystemClock()
    readings = [clock.monotonic() for _ in range(1000)]

    assert readings == sorted(readings)


async def test_sleep_waits_long_enough_and_can_be_cancelled() -> None:
    clock = SystemClock()
    began = clock.monotonic()
    await clock.sleep(0.01)
    waited = clock.monotonic() - began
    with anyio.move_on_after(0.01) as scope:
        await clock.sleep(60)

    assert waited >= 0.009
    assert scope.cancelled_caught


# -------------------------------------------------------------------------------- a clock that is set

HOUR = 3600 * 1_000_000_000
SECOND = 1_000_000_000


class Wall(VirtualClock):
    """A virtual clock whose wall time can be set."""

    shift = 0

    def time_ns(self) -> int:
        return super().time_ns() + self.shift


@settings(max_examples=30, deadline=None)
@given(
    st.floats(0.1, 7000), st.floats(0, 7000), st.sampled_from([-HOUR, HOUR, -HOUR // 2, 3 * HOUR])
)
def test_a_deadline_is_reached_after_its_seconds_even_if_the_clock_is_set(
    wait: float, set_after: float, shift: int
) -> None:
    clock = Wall()
    deadline = WallDeadline(clock)
    due = clock.time_ns() + round(wait * SECOND)
    assert deadline.reached(due) is None
    elapsed: float | None = None
    while elapsed is None:
        clock.advance(min(0.5, max(wait - clock.monotonic(), 0.01)))
        if clock.monotonic() >= set_after and not clock.shift:
            clock.shift = shift
        now = deadline.reached(due)
        if now is not None:
            elapsed = clock.monotonic()
            assert due <= now < due + SECOND  # the time it is, on the clock that it was set on

    assert wait - 1e-6 <= elapsed < wait + 0.1


@pytest.mark.parametrize("shift", [-HOUR, HOUR])
@pytest.mark.parametrize("made", ["before", "after"])
def test_a_deadline_first_passed_after_the_clock_was_set_is_the_nearer_one(
    shift: int, made: str
) -> None:
    clock = Wall()
    deadline = WallDeadline(clock)
    assert deadline.reached(None) is None
    before = clock.time_ns()
    clock.shift = shift
    due = (before if made == "before" else clock.time_ns()) + 10 * SECOND
    assert deadline.reached(due) is None
    clock.advance(9.9)
    assert deadline.reached(due) is None
    clock.advance(0.1)

    assert deadline.reached(due) is not None


def test_a_slewed_clock_is_not_reported_as_set() -> None:
    clock = Wall()
    detector = ClockStepDetector(clock)
    for _ in range(100):
        clock.shift += SECOND // 100
        assert not detector.was_set()
    clock.shift -= HOUR

    assert detector.was_set()
    assert not detector.was_set()


@asynccontextmanager
async def watching(
    registry: Registry, feed: FeedSpec, wire: FakeWire, clock: Wall, saw: Callable[[Event], None]
) -> AsyncIterator[None]:
    """Stream *feed* in virtual time and call *saw* with every event."""
    with anyio.fail_after(10):
        async with (
            clock.running(),
            tapeloom.open(feed, registry=registry, dial=wire.dial, clock=clock, seed=1) as stream,
        ):
            stream.on()(saw)
            yield


async def test_a_timed_stage_ticks_on_time_although_the_clock_is_set_back(
    registry: Registry, marker: Any
) -> None:
    """The stage waits ten seconds; after five, the clock is set back by an hour."""
    clock = Wall()

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))
        await anyio.sleep_forever()

    feed = FeedSpec("acme", ["BTC/USD"], ["trades"], stages=["marker"])
    wire = FakeWire(answer)
    ticked: list[float] = []

    def saw(event: Event) -> None:
        if isinstance(event, Status) and event.state == "ticked":
            ticked.append(clock.monotonic())

    async with watching(registry, feed, wire, clock, saw):
        await clock.sleep(1.0)
        marker.stages[0].due = clock.time_ns() + 10 * SECOND
        await clock.sleep(5.0)
        clock.shift = -HOUR
        await clock.sleep(20.0)

    assert ticked == pytest.approx([11.0], abs=0.2)


async def test_a_gap_without_later_events_is_reported_on_time_although_the_clock_is_set_back(
    registry: Registry,
) -> None:
    """The connection is closed; after the new acknowledgement nothing is sent, and the clock is set back."""
    clock = Wall()
    count = 0

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        nonlocal count
        count += 1
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))
        if count == 1:
            end.push(json.dumps({"s": "BTCUSD", "t": 5, "p": "1", "q": "1", "i": 1}))
            await clock.sleep(1.0)
            end.close(1006)
        await clock.sleep(2.0)
        clock.shift = -HOUR
        await anyio.sleep_forever()

    wire = FakeWire(answer)
    feed = FeedSpec("acme", ["BTC/USD"], ["trades"])
    gaps: list[float] = []

    def saw(event: Event) -> None:
        if isinstance(event, Gap):
            gaps.append(clock.monotonic())

    async with watching(registry, feed, wire, clock, saw):
        await clock.sleep(20.0)

    assert len(gaps) == 1
    assert gaps[0] < 10.0


def test_the_last_trade_is_the_last_received_although_our_clock_went_back() -> None:
    """The first arrives beside other events, the second in a batch of its own; our clock is set back between."""
    subscription = Subscription("BTC/USD", "trades")

    def trade(id: int, recv: int) -> Trade:
        return Trade("acme", "BTC/USD", id, recv, Decimal(1), Decimal(1), "buy", id, "trades")

    memory = LastSeen()
    memory.add([Status("acme", "", 1, 2 * HOUR, "notice"), trade(1, 2 * HOUR)])
    memory.add(TradeBatch([trade(2, HOUR)], [0]))

    assert memory.last_event(subscription) == trade(2, HOUR)


# -------------------------------------------------------------------------------- how far ahead


SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND


def believed(limit: TimeLimit, *aheads: float, every: float = 0.1) -> str:
    """Return a letter for each event: "." if its time is believed, "x" if not."""
    marks = ""
    for number, ahead in enumerate(aheads):
        recv = NOW + round(number * every * SECOND)
        marks += ".x"[limit.exceeds(recv + round(ahead * SECOND), recv)]
    return marks


@pytest.mark.parametrize(
    ("aheads", "marks"),
    [
        ([-3600, 0, 10], "..."),
        ([0, 10.1, 0], ".x."),
        ([3600] * 22, "x" * 19 + "..."),
        ([3600, 0] * 30, "x." * 30),
        ([3600] * 19 + [0] + [3600] * 19, "x" * 19 + "." + "x" * 19),
        ([3600, 7200] * 30, "xx" * 30),
        ([3600 + n / 10 for n in range(22)], "x" * 19 + "..."),
        ([3600] * 20 + [7200, 3611, 3609, 0], "x" * 19 + ".xx.."),
    ],
)
def test_a_time_is_believed_within_a_bound_of_the_clock_offset(
    aheads: list[float], marks: str
) -> None:
    assert believed(TimeLimit(10 * SECOND), *aheads) == marks


def test_a_few_over_a_minute_are_enough() -> None:
    assert believed(TimeLimit(10 * SECOND), 15, 15, 15, 15, every=31) == "xx.."


def test_a_clock_that_was_set_back_narrows_the_bound_again() -> None:
    limit = TimeLimit(10 * SECOND)
    believed(limit, *[3600] * 20)
    later = believed(limit, *[0] * 130, 3600, every=1.0)

    assert later == "." * 130 + "x"
    assert limit.allowed == 10 * SECOND


def test_without_a_bound_or_without_a_clock_every_time_is_believed() -> None:
    assert believed(TimeLimit(None), 10**9, 10**12) == ".."
    assert not TimeLimit(0).exceeds(NOW, 0)
