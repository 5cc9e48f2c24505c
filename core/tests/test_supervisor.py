"""Supervisor and Connection in virtual time: rate limits, heartbeat, gaps, refusals, reconnects."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import structlog
import tapeloom
from attrs import define, evolve, field
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom import Event, FeedSpec, Gap, Registry, Stack, Status, Trade
from tapeloom._compose.composer import compose
from tapeloom._connection.frame_intake import FeedIntake
from tapeloom._connection.supervisor import Supervisor
from tapeloom._runtime.backoff import Backoff
from tapeloom._runtime.rate_limits import RateLimits
from tapeloom._stream.feed.monitor import FeedMonitor
from tapeloom.errors import (
    ConfigError,
    ConnectionFailed,
    ConnectionLost,
    FeedError,
    LoginRefused,
    Throttled,
)
from tapeloom.plugin import Endpoint, Heartbeat, Message, Subscription
from tapeloom.units import Rate
from tapeloom_testing import FakeWire, VirtualClock, WireEnd

SECOND = 1_000_000_000


class MaxDelay(random.Random):
    """A random generator without jitter: always the whole delay."""

    def uniform(self, a: float, b: float) -> float:
        return b


# ---------------------------------------------------------------------------------------- backoff


def test_the_delay_doubles_up_to_its_cap() -> None:
    backoff = Backoff(MaxDelay(), first=0.5, cap=60.0)

    assert [backoff.next() for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]


@settings(max_examples=50)
@given(st.integers(), st.floats(0.01, 10), st.floats(0.01, 600), st.integers(1, 60))
def test_jitter_is_a_share_of_the_delay_and_never_more(
    seed: int, first: float, cap: float, attempts: int
) -> None:
    backoff = Backoff(random.Random(seed), first=first, cap=cap)
    for attempt in range(attempts):
        assert 0 <= backoff.next() <= min(cap, first * 2 ** min(attempt, 32))


def test_clients_that_lost_the_same_venue_do_not_reconnect_together() -> None:
    delays = []
    for seed in range(200):
        backoff = Backoff(random.Random(seed))
        for _ in range(6):
            backoff.next()
        delays.append(backoff.next())

    assert min(delays) < 3 < 29 < max(delays)
    assert len(set(delays)) == 200


def test_a_long_connection_resets_the_backoff_and_a_short_one_does_not() -> None:
    backoff = Backoff(MaxDelay(), healthy=60.0)
    for _ in range(5):
        backoff.next()
    backoff.record_lifetime(59.9)
    after_short = backoff.next()
    backoff.record_lifetime(60.0)

    assert after_short == 16
    assert backoff.next() == 0.5


# --------------------------------------------------------------------------------------- the rig


@define
class Rig:
    """A supervisor under test, and the events it emitted, each with its time in seconds."""

    clock: VirtualClock
    wire: FakeWire
    supervisor: Supervisor
    got: list[tuple[float, Event]] = field(factory=list)
    dials: list[float] = field(factory=list)
    error: FeedError | None = None

    @property
    def events(self) -> list[Event]:
        return [event for _, event in self.got]

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def states(self) -> list[str]:
        return [event.state for event in self.of(Status)]

    def story(self) -> list[Any]:
        """Trades by id and gaps by symbol and channel, in order."""
        return [
            e.id if isinstance(e, Trade) else f"gap {e.symbol} {e.channel}"
            for e in self.events
            if isinstance(e, Trade | Gap)
        ]


Answer = Callable[[WireEnd, Endpoint], Awaitable[None]]
BTC = ("BTC/USD",)


@asynccontextmanager
async def running(
    registry: Registry,
    answer: Any,
    *,
    symbols: Sequence[str] = BTC,
    channels: Sequence[str] = ("trades",),
    rng: random.Random | None = None,
    blocks: Callable[[Rig, list[Event]], Awaitable[None]] | None = None,
) -> AsyncIterator[Rig]:
    clock = VirtualClock()
    stack = Stack(feeds=(FeedSpec("acme", tuple(symbols), tuple(channels)),))
    (plan,) = compose(stack, registry, clock, 1).plans
    plan.feed.random = rng or MaxDelay()
    dials: list[float] = []

    async def played(end: WireEnd, endpoint: Endpoint) -> None:
        await answer(end, endpoint, len(dials), clock)

    wire = FakeWire(played)

    def dial(endpoint: Endpoint) -> Any:
        dials.append(clock.monotonic())
        return wire.dial(endpoint)

    plan = evolve(plan, dial=dial)

    async def emit(events: list[Event]) -> None:
        rig.got += [(clock.monotonic(), event) for event in events]
        if blocks is not None:
            await blocks(rig, events)

    endpoint, subscriptions = plan.connections(plan.feed.symbols)[0]
    supervisor = Supervisor(
        plan, endpoint, subscriptions, FeedIntake(plan), emit, RateLimits(clock)
    )
    rig = Rig(clock, wire, supervisor, dials=dials)

    async def run() -> None:
        try:
            await supervisor.run()
        except FeedError as error:
            rig.error = error

    async def monitor() -> None:
        feed_monitor = FeedMonitor(plan)
        while True:
            await clock.sleep(1.0)
            if events := feed_monitor.check():
                await emit(events)

    with anyio.fail_after(10):
        async with clock.running(), anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            tasks.start_soon(monitor)
            yield rig
            tasks.cancel_scope.cancel()


def ok(text: str) -> str:
    return json.dumps({"ok": json.loads(text)["id"]})


def frame(n: int, symbol: str = "BTCUSD", at: int | None = None) -> str:
    return json.dumps({"s": symbol, "t": n if at is None else at, "p": f"{n}.50", "q": "2", "i": n})


async def ack_all(end: WireEnd) -> None:
    while True:
        text = await end.take()
        if text.startswith("{"):
            end.push(ok(text))


# ------------------------------------------------------------------------------------ rate limits


def windows(times: Sequence[float], seconds: float) -> int:
    """Return the largest number of *times* in any window of so many seconds."""
    return max(sum(start <= t < start + seconds - 1e-9 for t in times) for start in times)


@pytest.mark.parametrize("beat", [None, Heartbeat(0.7, "beat"), Heartbeat(0.7)])
async def test_no_window_holds_more_messages_than_the_venue_allows_heartbeats_included(
    registry: Registry, acme: Any, beat: Heartbeat | None
) -> None:
    acme.endpoint = {"message_rate": Rate(5, 1.0), "heartbeat": beat, "max_subscriptions": 1000}
    times: list[float] = []

    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        while True:
            text = await end.take()
            times.append(rig.clock.monotonic())
            if text.startswith("{"):
                end.push(ok(text))

    symbols = [f"S{n}/USD" for n in range(300)]
    async with running(registry, answer, symbols=symbols) as rig:
        await rig.clock.sleep(2)
        await rig.supervisor.add([Subscription("ETH/USD", "trades")])
        await rig.supervisor.drop([Subscription("S1/USD", "trades")])
        await rig.clock.sleep(10)

    assert len([t for t in rig.wire.ends[0].sent if t.startswith("{")]) == 32
    assert windows(times, 1.0) <= 5


async def test_a_rate_limit_over_minutes_holds_over_minutes(registry: Registry, acme: Any) -> None:
    acme.endpoint = {
        "message_rate": Rate(20, 60.0),
        "ack_timeout_seconds": 1e6,
        "silence_timeout_seconds": 1e6,
    }
    acme.endpoint["max_subscriptions"] = 1000
    times: list[float] = []

    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        while True:
            end.push(ok(await end.take()))
            times.append(rig.clock.monotonic())

    async with running(registry, answer, symbols=[f"S{n}/USD" for n in range(450)]) as rig:
        await rig.clock.sleep(300)

    assert len(times) == 45
    assert windows(times, 60.0) <= 20


@pytest.mark.parametrize("message", ["still here", None])
async def test_the_heartbeat_is_sent_in_time_even_while_subscribing(
    registry: Registry, acme: Any, message: str | None
) -> None:
    acme.endpoint = {
        "message_rate": Rate(1, 1.0),
        "heartbeat": Heartbeat(5.0, message),
        "max_subscriptions": 1000,
        "ack_timeout_seconds": 60.0,
    }
    beats: list[float] = []

    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        while True:
            text = await end.take()
            if text.startswith("{"):
                end.push(ok(text))
            else:
                assert text == (message or "<ping>")
                beats.append(rig.clock.monotonic())

    async with running(registry, answer, symbols=[f"S{n}/USD" for n in range(300)]) as rig:
        await rig.clock.sleep(51.5)

    assert len(beats) == 10
    assert all(0 <= beat - 5 * (n + 1) <= 1.1 for n, beat in enumerate(beats))


async def test_all_messages_of_a_window_are_sent_at_once_but_those_left_for_heartbeats(
    registry: Registry, acme: Any
) -> None:
    """48 messages in six minutes are 48 at once, not one every 7.5 s."""
    acme.endpoint = {
        "message_rate": Rate(48, 360.0),
        "heartbeat": Heartbeat(60.0, "beat"),
        "max_subscriptions": 10_000,
        "ack_timeout_seconds": 1e6,
        "silence_timeout_seconds": 1e6,
    }
    times: list[float] = []
    beats: list[float] = []

    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        while True:
            text = await end.take()
            (beats if text == "beat" else times).append(rig.clock.monotonic())
            if text != "beat":
                end.push(ok(text))

    async with running(registry, answer, symbols=[f"S{n}/USD" for n in range(500)]) as rig:
        await rig.clock.sleep(365)

    assert times[:41] == [0.0] * 41
    assert times[41] > 360
    assert len(times) == 50
    assert windows([*times, *beats], 360.0) <= 48
    assert beats == [60.0 * (n + 1) for n in range(6)]


# --------------------------------------------------------------------------------- reconnecting


async def test_a_throttling_venue_is_not_dialled_during_its_pause(registry: Registry) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        await ack_all(end)

    async with running(registry, answer) as rig:
        rig.wire.refusals = [Throttled("acme", "too many", retry_after_seconds=90.0)]
        await rig.clock.sleep(140)

    assert len(rig.dials) == 2
    assert 90 <= rig.dials[1] - rig.dials[0] < 91


async def test_throttling_without_a_pause_counts_as_one_attempt(registry: Registry) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        await ack_all(end)

    async with running(registry, answer) as rig:
        rig.wire.refusals = [Throttled("acme", "too many") for _ in range(3)]
        await rig.clock.sleep(10)

    assert rig.dials == pytest.approx([0, 0.5, 1.5, 3.5])


async def test_delays_grow_with_failures_and_reset_after_a_long_connection(
    registry: Registry,
) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        if number == 4:
            end.push(ok(await end.take()))
            for n in range(7):
                end.push(frame(n))
                await rig.clock.sleep(10)
        end.close(1006)
        await anyio.sleep_forever()

    async with running(registry, answer) as rig:
        await rig.clock.sleep(81)

    assert rig.dials == pytest.approx([0, 0.5, 1.5, 3.5, 73.5 + 0.5, 75, 77, 81])


async def test_waiting_for_the_dial_limit_does_not_reset_the_backoff(
    registry: Registry, acme: Any
) -> None:
    acme.endpoint = {"dial_rate": Rate(1, 100.0)}

    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        end.close(1006)
        await anyio.sleep_forever()

    async with running(registry, answer) as rig:
        await rig.clock.sleep(450)
    tries = [s.detail.rpartition("next try in ")[2] for s in rig.of(Status) if s.state[0] == "r"]

    assert tries[:4] == ["0.5 s", "1.0 s", "2.0 s", "4.0 s"]


async def test_the_dial_limit_is_shared_by_all_feeds_on_one_host(
    registry: Registry, acme: Any
) -> None:
    acme.endpoint = {"dial_rate": Rate(3, 10.0), "max_subscriptions": 1}
    clock = VirtualClock()
    times: list[float] = []

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        times.append(clock.monotonic())
        await ack_all(end)

    feeds = [
        FeedSpec("acme", [f"S{n}/USD" for n in range(4)], ["trades"], name=name)
        for name in ("one", "two")
    ]
    wire = FakeWire(answer)
    async with (
        clock.running(),
        tapeloom.open(feeds, registry=registry, dial=wire.dial, clock=clock, seed=1) as stream,
    ):
        stream.consume()
        await clock.sleep(31)

    assert len(times) == 8
    assert windows(times, 10.0) == 3


async def test_a_pause_demanded_of_one_feed_holds_for_the_other_on_that_host(
    registry: Registry, acme: Any
) -> None:
    acme.endpoint = {"dial_rate": Rate(10, 10.0)}
    clock = VirtualClock()
    times: list[float] = []

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        times.append(clock.monotonic())
        await ack_all(end)

    feeds = [FeedSpec("acme", BTC, ["trades"], name=name) for name in ("one", "two")]
    wire = FakeWire(answer, refusals=[Throttled("acme", "enough", retry_after_seconds=60.0)])
    states: list[Status] = []
    async with (
        clock.running(),
        tapeloom.open(feeds, registry=registry, dial=wire.dial, clock=clock, seed=1) as stream,
    ):
        stream.on(Status)(states.append)
        await clock.sleep(100)

    assert times == [60, 60]
    assert [status.detail for status in states if status.state == "throttled"] == [
        "main#1: the venue's limit allows the next connection in 60 s"
    ]


@pytest.mark.parametrize("closes", [False, True])
async def test_a_closing_notice_ends_the_connection_and_the_venue_is_dialled_at_once(
    registry: Registry, closes: bool
) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        end.push(ok(await end.take()))
        if number == 1:
            await rig.clock.sleep(30)
            end.push(frame(1), '{"notice": "maintenance", "ends": true}')
            if closes:
                end.close(1001)
        await anyio.sleep_forever()

    async with running(registry, answer) as rig:
        await rig.clock.sleep(40)

    assert rig.dials == [0, 30]
    assert "notice" in rig.states()
    assert rig.story() == ([1, "gap BTC/USD trades"] if closes else [1])


async def test_a_venue_that_closes_every_connection_is_not_dialled_without_a_pause(
    registry: Registry, acme: Any
) -> None:
    acme.endpoint = {"dial_rate": None}

    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        end.push('{"notice": "maintenance", "ends": true}')
        await anyio.sleep_forever()

    async with running(registry, answer) as rig:
        await rig.clock.sleep(100)

    assert len(rig.dials) < 12


async def test_a_notice_without_closing_does_not_end_the_connection(registry: Registry) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        end.push('{"notice": "hello"}')
        await ack_all(end)

    async with running(registry, answer) as rig:
        await rig.clock.sleep(20)

    assert len(rig.dials) == 1
    assert [s.detail for s in rig.of(Status) if s.state == "notice"] == ["hello"]


async def test_only_a_permanent_error_ends_the_supervisor(registry: Registry) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        await ack_all(end)

    final = ConnectionFailed("acme", "HTTP 403")
    final.retryable = False
    async with running(registry, answer) as rig:
        rig.wire.refusals = [ConnectionFailed("acme", "refused"), ConnectionLost("", "cut"), final]
        await rig.clock.sleep(60)

    assert rig.error is final
    assert len(rig.dials) == 3


# --------------------------------------------------------------------------------------- the gaps


def script(*connections: Sequence[str]) -> Any:
    """Play one list of frames per connection, in reads of their own; "ACK" acknowledges.

    Each connection but the last is cut after its frames. Virtual seconds pass between.
    """

    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        acks = ok(await end.take())
        for read in connections[min(number, len(connections)) - 1]:
            frames = [acks if part == "ACK" else part for part in read.split("\n")]
            end.push(*frames)
            await clock.sleep(0)
        if number < len(connections):
            end.close(1006)
        await ack_all(end)

    return answer


TWO = ("BTC/USD", "ETH/USD")


async def test_each_symbol_and_channel_has_one_gap_and_none_at_the_first_connect(
    registry: Registry,
) -> None:
    connections = (
        ["ACK", frame(1), frame(2, "ETHUSD")],
        ["ACK", frame(3), frame(4), frame(5, "ETHUSD")],
    )
    channels = ("trades", "book")
    async with running(registry, script(*connections), symbols=TWO, channels=channels) as rig:
        await rig.clock.sleep(10)
    gaps = rig.of(Gap)
    story = rig.story()

    assert story[:7] == [1, 2, "gap BTC/USD trades", 3, 4, "gap ETH/USD trades", 5]
    assert sorted((g.symbol, g.channel) for g in gaps) == [
        ("BTC/USD", "book"),
        ("BTC/USD", "trades"),
        ("ETH/USD", "book"),
        ("ETH/USD", "trades"),
    ]
    assert {g.cause for g in gaps} == {"disconnect"}
    assert rig.supervisor._feed.counters["gaps"] == 4


async def test_data_before_the_acknowledgement_comes_after_its_gap(registry: Registry) -> None:
    connections = (["ACK", frame(1)], [frame(2), "ACK", frame(3)])
    async with running(registry, script(*connections)) as rig:
        await rig.clock.sleep(5)

    assert rig.story() == [1, "gap BTC/USD trades", 2, 3]


async def test_data_and_acknowledgement_in_one_read_come_after_the_gap(registry: Registry) -> None:
    connections = (["ACK", frame(1)], [f"{frame(2)}\nACK\n{frame(3)}"])
    async with running(registry, script(*connections)) as rig:
        await rig.clock.sleep(5)

    assert rig.story() == [1, "gap BTC/USD trades", 2, 3]


async def test_a_symbol_without_events_has_its_gap_seconds_after_the_acknowledgement(
    registry: Registry,
) -> None:
    connections = (["ACK", frame(1), frame(2, "ETHUSD")], ["ACK", frame(3)])
    async with running(registry, script(*connections), symbols=TWO) as rig:
        await rig.clock.sleep(10)

    assert rig.story()[2:] == ["gap BTC/USD trades", 3, "gap ETH/USD trades"]


async def test_an_unparsable_frame_does_not_prevent_the_gap(registry: Registry) -> None:
    connections = (["ACK", frame(1)], ['ACK\n{"s": "poison"}', frame(2)])
    async with running(registry, script(*connections)) as rig:
        await rig.clock.sleep(5)

    assert rig.story() == [1, "gap BTC/USD trades", 2]


async def test_a_subscription_live_without_acknowledgement_has_a_gap_too(
    registry: Registry,
) -> None:
    connections = ([frame(1)], ["ACK", frame(2)])
    async with running(registry, script(*connections)) as rig:
        await rig.clock.sleep(5)

    assert rig.story() == [1, "gap BTC/USD trades", 2]


async def test_gaps_are_reported_for_a_venue_without_acknowledgements(
    registry: Registry, acme: Any
) -> None:
    class Unanswered(type(acme.subscribe(None))):  # type: ignore[misc]
        def encode_subscribe(
            self, subscriptions: Sequence[Subscription], first_id: int
        ) -> list[Message]:
            return [
                Message(m.text, m.subscriptions)
                for m in super().encode_subscribe(subscriptions, first_id)
            ]

    connections = ([frame(1)], [frame(2)])
    registry = Registry({})
    registry.register(acme, "acme")
    async with running(registry, script(*connections)) as rig:
        codec = rig.supervisor._pair._setup.plan.codec
        codec.encode_subscribe = Unanswered().encode_subscribe
        await rig.clock.sleep(30)

    assert rig.story() == [1, "gap BTC/USD trades", 2]


async def test_failed_attempts_in_between_leave_one_gap_from_the_first_disconnect_on(
    registry: Registry,
) -> None:
    connections = (["ACK", frame(1), frame(7)], [], [], ["ACK", frame(20)])
    async with running(registry, script(*connections)) as rig:
        await rig.clock.sleep(30)
    gaps = rig.of(Gap)

    assert rig.story() == [1, 7, "gap BTC/USD trades", 20]
    assert gaps[0].since == 7


async def test_a_subscription_not_live_in_between_has_a_gap_from_the_first_disconnect_on(
    registry: Registry,
) -> None:
    cuts: list[int] = []

    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        first, second = ok(await end.take()), ok(await end.take())
        end.push(first)
        if number != 2:
            end.push(second)
        cuts.append(clock.time_ns())
        end.push(frame(number, "S0USD", at=cuts[-1]))
        await clock.sleep(0)
        if number < 3:
            end.close(1006)
        await anyio.sleep_forever()

    async with running(registry, answer, symbols=[f"S{n}/USD" for n in range(11)]) as rig:
        await rig.clock.sleep(9)
    since = {s: [g.since for g in rig.of(Gap) if g.symbol == s] for s in ("S0/USD", "S10/USD")}

    assert since == {"S0/USD": cuts[:2], "S10/USD": cuts[:1]}


async def test_two_disconnects_make_two_gaps_that_do_not_overlap(registry: Registry) -> None:
    connections = (["ACK", frame(10)], ["ACK", frame(20)], ["ACK", frame(10**19)])
    async with running(registry, script(*connections)) as rig:
        await rig.clock.sleep(30)
    first, second = rig.of(Gap)

    assert first.since == 10
    assert first.until <= second.since <= second.until


async def test_a_symbol_dropped_between_two_connections_has_no_gap(registry: Registry) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        end.push(ok(await end.take()))
        if number == 1:
            end.push(frame(1), frame(2, "ETHUSD"))
            await clock.sleep(0)
            end.close(1006)
        await ack_all(end)

    async with running(registry, answer, symbols=TWO) as rig:
        await rig.clock.sleep(0.25)
        await rig.supervisor.drop([Subscription("ETH/USD", "trades")])
        await rig.clock.sleep(10)

    assert len(rig.dials) == 2
    assert rig.story() == [1, 2, "gap BTC/USD trades"]


async def test_a_symbol_dropped_while_connected_has_no_gap(registry: Registry) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        end.push(ok(await end.take()))
        if number == 1:
            end.push(frame(1), frame(2, "ETHUSD"))
            end.push(ok(await end.take()))
            await clock.sleep(0)
            end.close(1006)
        await ack_all(end)

    async with running(registry, answer, symbols=TWO) as rig:
        await rig.clock.sleep(1)
        await rig.supervisor.drop([Subscription("ETH/USD", "trades")])
        await rig.clock.sleep(10)

    assert rig.story() == [1, 2, "gap BTC/USD trades"]
    assert json.loads(rig.wire.ends[-1].sent[0])["args"] == ["BTCUSD@trades"]


@pytest.mark.parametrize("skew", [-5 * SECOND, 1, 5 * SECOND])
async def test_since_and_until_are_on_the_clock_of_the_venue(registry: Registry, skew: int) -> None:
    clock_of: dict[str, VirtualClock] = {}

    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        end.push(ok(await end.take()))
        if number == 1:
            for n in range(3):
                await clock.sleep(1)
                end.push(frame(n, at=clock.time_ns() + skew))
            sent.append(clock.time_ns() + skew)
            await clock.sleep(1)
            end.push('{"notice": "goodbye"}')
            await clock.sleep(0)
            end.close(1006)
        elif number == 2:
            await clock.sleep(10)
            end.push(frame(9, "BTCUSD", at=clock.time_ns() + skew))
        await anyio.sleep_forever()

    sent: list[int] = []
    async with running(registry, answer, symbols=TWO) as rig:
        await rig.clock.sleep(30)
        clock_of["venue"] = rig.clock
    gaps = rig.of(Gap)
    connected = [event.ts for event in rig.of(Status) if event.state == "connected"][1]

    # The trade that comes later shows by its id what was lost: its gap is reported again.
    assert [gap.symbol for gap in gaps] == ["BTC/USD", "ETH/USD", "BTC/USD"]
    assert [gap.since for gap in gaps] == [sent[0]] * 3
    assert [gap.until for gap in gaps] == [connected + skew] * 2 + [connected + skew + 10 * SECOND]
    assert [(gap.after_id, gap.before_id) for gap in gaps] == [(2, None), (None, None), (2, 9)]


async def test_a_gap_ends_no_earlier_than_it_begins(registry: Registry) -> None:
    connections = (["ACK", frame(1, at=10 * SECOND)], [frame(2, at=4 * SECOND), "ACK"])
    async with running(registry, script(*connections)) as rig:
        await rig.clock.sleep(5)
    (gap,) = rig.of(Gap)

    # The venue's clock was set back: it would have shown this in half a second.
    assert gap.since == 10 * SECOND
    assert gap.until == gap.ts == round(10.5 * SECOND)


async def test_an_event_of_a_stage_does_not_change_the_start_of_a_gap(registry: Registry) -> None:
    class Late:
        stages: Any = None

        @tapeloom.hooks.hookimpl
        def aggregate(self, feed: Any) -> Any:
            def stage(events: list[Event]) -> list[Event]:
                added = [Status("acme", "", 1, 1, "bar") for e in events if isinstance(e, Trade)]
                return [*events, *added]

            return stage

    registry.register(Late(), "late")
    clock = VirtualClock()
    spec = FeedSpec("acme", BTC, ["trades"], stages=("late",))
    frames = iter([["ACK", frame(1, at=10 * SECOND)], ["ACK", frame(2, at=20 * SECOND)]])

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        end.push(ok(await end.take()))
        end.push(next(frames)[1])
        await clock.sleep(0)
        end.close(1006)
        await anyio.sleep_forever()

    wire = FakeWire(answer)
    gaps: list[Gap] = []
    async with (
        clock.running(),
        tapeloom.open(spec, registry=registry, dial=wire.dial, clock=clock, seed=1) as stream,
    ):
        async for gap in stream.of(Gap):
            gaps.append(gap)
            break

    assert gaps[0].since == 10 * SECOND


# ------------------------------------------------------------------------------------- refusals


async def test_a_permanently_refused_subscription_is_not_requested_again_and_its_gap_ends(
    registry: Registry, acme: Any
) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        asked = [json.loads(await end.take()) for _ in range(2 if number < 3 else 1)]
        if number == 1:
            end.push('{"ok": 1}', '{"ok": 2}', frame(1, "S10USD"))
            await clock.sleep(0)
            end.close(1006)
        elif number == 2:
            first, second = (message["id"] for message in asked)
            end.push(json.dumps({"ok": first}), json.dumps({"error": "delisted", "id": second}))
            await clock.sleep(0)
            end.close(1006)
        else:
            end.push(json.dumps({"ok": asked[0]["id"]}))
        await anyio.sleep_forever()

    symbols = [f"S{n}/USD" for n in range(11)]
    async with running(registry, answer, symbols=symbols) as rig:
        await rig.clock.sleep(20)
    refused = [e for e in rig.of(Status) if e.state == "refused"]

    assert [(e.symbol, e.channel, e.detail) for e in refused] == [("S10/USD", "trades", "delisted")]
    assert len(rig.dials) == 3
    assert [g.symbol for g in rig.of(Gap)].count("S10/USD") == 1
    assert [g.symbol for g in rig.of(Gap)].count("S3/USD") == 1


async def test_a_temporarily_refused_subscription_is_requested_again(registry: Registry) -> None:
    times: list[float] = []

    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        while True:
            asked = json.loads(await end.take())
            times.append(rig.clock.monotonic())
            if len(times) < 4:
                end.push(json.dumps({"error": "busy", "id": asked["id"], "busy": True}))
            else:
                end.push(json.dumps({"ok": asked["id"]}), frame(1))

    async with running(registry, answer) as rig:
        await rig.clock.sleep(40)

    assert times == pytest.approx([0, 2, 6, 14])
    assert rig.story() == [1]
    assert len(rig.dials) == 1
    assert rig.states().count("refused") == 3


async def test_a_subscription_dropped_while_refused_is_not_requested_again(
    registry: Registry,
) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        asked = json.loads(await end.take())
        end.push(json.dumps({"error": "busy", "id": asked["id"], "busy": True}))
        await ack_all(end)

    async with running(registry, answer) as rig:
        await rig.clock.sleep(1)
        await rig.supervisor.drop([Subscription("BTC/USD", "trades")])
        await rig.clock.sleep(20)

    assert [json.loads(t)["op"] for t in rig.wire.ends[0].sent] == ["sub", "unsub"]


# ---------------------------------------------------------------------------------- slow consumers


async def test_a_blocking_consumer_does_not_count_as_silence_of_the_connection(
    registry: Registry,
) -> None:
    async def blocks(rig: Rig, events: list[Event]) -> None:
        if any(isinstance(event, Trade) and event.id == 1 for event in events):
            await rig.clock.sleep(500)

    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        end.push(ok(await end.take()))
        end.push(frame(1))
        await rig.clock.sleep(530)
        end.push(frame(2))
        await anyio.sleep_forever()

    async with running(registry, answer, blocks=blocks) as rig:
        await rig.clock.sleep(560)

    assert len(rig.dials) == 1
    assert rig.story() == [1, 2]


async def test_a_blocking_consumer_does_not_make_the_acknowledgement_overdue(
    registry: Registry,
) -> None:
    async def blocks(rig: Rig, events: list[Event]) -> None:
        if any(isinstance(event, Trade) and event.id == 1 for event in events):
            await rig.clock.sleep(100)

    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        text = await end.take()
        end.push(frame(1))
        await rig.clock.sleep(105)
        end.push(ok(text))
        await anyio.sleep_forever()

    async with running(registry, answer, blocks=blocks) as rig:
        await rig.clock.sleep(140)

    assert len(rig.dials) == 1
    assert "subscribed" in rig.states()


async def test_a_consumer_blocking_at_the_start_does_not_count_as_silence(
    registry: Registry,
) -> None:
    async def blocks(rig: Rig, events: list[Event]) -> None:
        if any(isinstance(event, Status) and event.state == "connected" for event in events):
            await rig.clock.sleep(500)

    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        text = await end.take()
        await rig.clock.sleep(5)
        end.push(ok(text))
        await anyio.sleep_forever()

    async with running(registry, answer, blocks=blocks) as rig:
        await rig.clock.sleep(540)

    assert len(rig.dials) == 1


async def test_a_silent_connection_is_detected_after_a_consumer_has_blocked(
    registry: Registry,
) -> None:
    async def blocks(rig: Rig, events: list[Event]) -> None:
        if any(isinstance(event, Trade) for event in events):
            await rig.clock.sleep(500)

    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        end.push(ok(await end.take()))
        if number == 1:
            end.push(frame(1))
        await anyio.sleep_forever()

    async with running(registry, answer, blocks=blocks) as rig:
        await rig.clock.sleep(565)

    assert len(rig.dials) == 2
    assert rig.dials[1] == pytest.approx(562, abs=2)


async def test_a_blocked_event_loop_counts_neither_as_silence_nor_as_a_late_acknowledgement(
    registry: Registry,
) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        text = await end.take()
        await rig.clock.sleep(3)
        end.push(ok(text))
        await anyio.sleep_forever()

    async with running(registry, answer) as rig:
        await rig.clock.sleep(1)
        rig.clock.advance(500)  # the event loop was blocked for so long
        await rig.clock.sleep(40)
        assert len(rig.dials) == 1
        assert "subscribed" in rig.states()
        await rig.clock.sleep(40)  # and now the connection is silent

    assert len(rig.dials) == 2


# -------------------------------------------------------------------------------- broken connections


async def test_adding_on_a_broken_connection_raises_nothing_and_is_done_by_the_next_one(
    registry: Registry,
) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        await ack_all(end)

    async with running(registry, answer) as rig:
        await rig.clock.sleep(1)
        rig.wire.ends[0].close(1006)
        await rig.supervisor.add([Subscription("ETH/USD", "trades")])
        await rig.clock.sleep(10)

    assert len(rig.dials) == 2
    assert json.loads(rig.wire.ends[1].sent[0])["args"] == ["BTCUSD@trades", "ETHUSD@trades"]


async def test_a_series_of_messages_ends_with_its_connection(registry: Registry, acme: Any) -> None:
    acme.endpoint = {"message_rate": Rate(1, 1.0), "max_subscriptions": 1000}

    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        await ack_all(end)

    async with running(registry, answer) as rig:
        async with anyio.create_task_group() as tasks:
            await rig.clock.sleep(2)
            added = [Subscription(f"S{n}/USD", "trades") for n in range(100)]
            tasks.start_soon(rig.supervisor.add, added)
            await rig.clock.sleep(3)
            rig.wire.ends[0].close(1006)
        await rig.clock.sleep(60)
    asked = [name for text in rig.wire.ends[1].sent for name in json.loads(text)["args"]]

    assert len(rig.dials) == 2
    assert len(asked) == len(set(asked)) == 101


async def test_a_permanent_error_is_retried_where_a_connection_has_worked_before(
    registry: Registry,
) -> None:
    """A proxy that answers 404 for a minute must not end a feed that was live for days."""
    refused = ConnectionFailed("acme", "HTTP 404")
    refused.retryable = False

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}), frame(len(wire.ends)))
        if len(wire.ends) == 1:
            wire.refusals += [refused, refused]
            end.close(1006)
        await anyio.sleep_forever()

    wire = FakeWire(answer)
    clock = VirtualClock()
    ids = []
    with anyio.fail_after(10):
        given = Stack(feeds=(FeedSpec("acme", ["BTC/USD"], ["trades"]),))
        stream = tapeloom.open(given, registry=registry, dial=wire.dial, clock=clock, seed=1)
        async with clock.running(), stream:
            async for trade in stream.of(Trade):
                ids.append(trade.id)
                if len(ids) == 2:
                    break

    assert ids == [1, 2]


# ------------------------------------------------------------------------------------- the login

LOGIN = Message('{"login": "open sesame"}', (), "login", is_login=True)


async def test_nothing_is_subscribed_before_the_login_is_acknowledged(
    registry: Registry, acme: Any
) -> None:
    acme.endpoint = {"opening": (LOGIN,)}

    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        await end.take()
        await clock.sleep(5)
        before.extend(end.sent)
        end.push('{"ok": "login"}')
        await ack_all(end)

    before: list[str] = []
    async with running(registry, answer) as rig:
        await rig.clock.sleep(1)
        await rig.supervisor.add([Subscription("ETH/USD", "trades")])
        await rig.clock.sleep(8)

    assert before == [LOGIN.text]
    assert [json.loads(text)["args"] for text in rig.wire.ends[0].sent[1:]] == [
        ["BTCUSD@trades", "ETHUSD@trades"]
    ]
    assert rig.states() == ["connected", "logged_in", "subscribed"]


async def test_the_opening_messages_are_sent_in_order_each_once_the_one_before_was_answered(
    registry: Registry, acme: Any
) -> None:
    def opening(now: int) -> list[Message]:
        signed = Message(json.dumps({"signed": now}), (), "login", is_login=True)
        return [Message("hello", ()), signed, Message("beat 10", (), "beat")]

    acme.endpoint = {"opening": opening}

    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        for messages, reply in ((2, '{"ok": "login"}'), (1, '{"ok": "beat"}')):
            for _ in range(messages):
                await end.take()
            await clock.sleep(1)
            counts.append(len(end.sent))
            end.push(reply)
        await ack_all(end)

    counts: list[int] = []
    async with running(registry, answer) as rig:
        began = rig.clock.time_ns()
        await rig.clock.sleep(5)

    sent = rig.wire.ends[0].sent
    assert counts == [2, 3]
    assert sent[:3] == ["hello", json.dumps({"signed": began}), "beat 10"]
    assert rig.states() == ["connected", "logged_in", "subscribed"]


async def test_several_replies_in_one_frame_count_each_and_a_question_is_answered(
    registry: Registry,
) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        request = json.loads(await end.take())["id"]
        replies = [{"question": 7}, {"notice": "welcome"}, {"ok": request}, {"question": 8}]
        end.push(json.dumps(replies))

    async with running(registry, answer) as rig:
        await rig.clock.sleep(2)

    assert rig.wire.ends[0].sent[1:] == ['{"answer": 7}', '{"answer": 8}']
    assert rig.states() == ["connected", "notice", "subscribed"]


async def test_a_permanently_refused_login_ends_the_supervisor_without_a_retry(
    registry: Registry, acme: Any
) -> None:
    acme.endpoint = {"opening": (LOGIN,)}

    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        await end.take()
        end.push('{"error": "no such key"}')
        await anyio.sleep_forever()

    async with running(registry, answer) as rig:
        await rig.clock.sleep(500)

    assert isinstance(rig.error, LoginRefused)
    assert "no such key" in str(rig.error)
    assert len(rig.dials) == 1


async def test_a_temporarily_refused_login_is_retried_after_the_demanded_pause(
    registry: Registry, acme: Any
) -> None:
    acme.endpoint = {"opening": (LOGIN,)}

    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        await end.take()
        end.push('{"error": "one at a time", "pause": 30}' if number < 3 else '{"ok": "login"}')
        await ack_all(end)

    async with running(registry, answer) as rig:
        await rig.clock.sleep(100)

    assert [b - a for a, b in itertools.pairwise(rig.dials)] == pytest.approx([30, 30], abs=0.5)
    assert rig.states()[-1] == "subscribed"


async def test_an_unanswered_login_ends_the_connection_and_is_not_logged(
    registry: Registry, acme: Any
) -> None:
    acme.endpoint = {"opening": (LOGIN,), "ack_timeout_seconds": 10.0}

    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        await end.take()
        if number == 2:
            end.push('{"ok": "login"}')
        await ack_all(end)

    with structlog.testing.capture_logs() as logs:
        async with running(registry, answer) as rig:
            await rig.clock.sleep(30)
    written = f"{logs} {rig.events} {rig.supervisor.endpoint}"

    assert "no answer within 10 s to the login" in written
    assert "sesame" not in written
    assert rig.states()[-1] == "subscribed"


# ------------------------------------------------------------- replies that name no message


async def test_a_reply_by_subscription_settles_the_message_it_covers(
    registry: Registry, acme: Any
) -> None:
    acme.endpoint = {"ack_timeout_seconds": 5.0}

    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        await end.take()
        end.push('{"live": ["BTCUSD@trades"]}')
        await clock.sleep(2)
        end.push('{"live": ["BTCUSD@trades", "ETHUSD@trades"]}')  # a full set, again and again
        await anyio.sleep_forever()

    async with running(registry, answer, symbols=["BTC/USD", "ETH/USD"]) as rig:
        await rig.clock.sleep(50)

    assert len(rig.dials) == 1
    assert [s.detail for s in rig.of(Status) if s.state == "subscribed"] == [
        "main: 1 subscriptions"
    ] * 2


async def test_a_partly_answered_message_counts_as_unanswered(
    registry: Registry, acme: Any
) -> None:
    acme.endpoint = {"ack_timeout_seconds": 5.0}

    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        await end.take()
        end.push('{"live": ["BTCUSD@trades"]}')
        await anyio.sleep_forever()

    async with running(registry, answer, symbols=["BTC/USD", "ETH/USD"]) as rig:
        await rig.clock.sleep(7)

    assert len(rig.dials) == 2


@pytest.mark.parametrize("silent", [False, True])
async def test_events_count_as_the_acknowledgement_if_the_reply_is_not_understood(
    registry: Registry, silent: bool
) -> None:
    """Acme subscribes ten symbols a message; with *silent*, the second message has no event."""
    symbols = [f"C{n}/USD" for n in range(11)]

    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        for _ in range(2):
            await end.take()
            end.push('{"kind": "yes, in another form"}')
        n = 0
        while True:
            await clock.sleep(1)
            n += 1
            end.push(frame(n, "C3USD"), *([] if silent else [frame(n, "C10USD")]))

    async with running(registry, answer, symbols=symbols) as rig:
        await rig.clock.sleep(45)

    assert len(rig.dials) == 1
    live = [s.detail for s in rig.of(Status) if s.state == "subscribed"]
    assert live == ["main: 11 subscriptions, shown by their events; no known reply came"]


async def test_events_of_before_an_unsubscribe_do_not_acknowledge_a_new_subscription(
    registry: Registry,
) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        end.push(ok(await end.take()))
        await end.take()
        await end.take()
        for n in range(100):  # the unsubscribe is not obeyed and not answered
            end.push(frame(n + 1))
            await clock.sleep(1)

    async with running(registry, answer) as rig:
        await rig.clock.sleep(2)
        await rig.supervisor.resubscribe([Subscription("BTC/USD", "trades")])
        await rig.clock.sleep(20)

    assert len(rig.dials) == 2
    assert any("no answer within 10 s" in s.detail for s in rig.of(Status))


async def test_a_refusal_by_subscription_removes_only_that_subscription(registry: Registry) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        await end.take()
        end.push('{"not_live": ["ETHUSD@trades"], "reason": "no such coin"}')
        end.push('{"live": ["BTCUSD@trades"]}')
        await anyio.sleep_forever()

    async with running(registry, answer, symbols=["BTC/USD", "ETH/USD"]) as rig:
        await rig.clock.sleep(50)
    (refused,) = [s for s in rig.of(Status) if s.state == "refused"]

    assert (refused.symbol, refused.detail) == ("ETH/USD", "no such coin")
    assert rig.supervisor.wanted == [Subscription("BTC/USD", "trades")]
    assert len(rig.dials) == 1


async def test_a_refusal_without_a_name_refers_to_the_oldest_pending_message(
    registry: Registry,
) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        first = await end.take()
        second = await end.take()
        end.push('{"error": "symbol limit exceeded"}')
        end.push(ok(second))
        assert first != second
        await anyio.sleep_forever()

    symbols = [f"S{n}/USD" for n in range(12)]
    async with running(registry, answer, symbols=symbols) as rig:
        await rig.clock.sleep(50)

    assert [subscription.symbol for subscription in rig.supervisor.wanted] == symbols[10:]
    assert len([s for s in rig.of(Status) if s.state == "refused"]) == 10


# ------------------------------------------------------------------------------- resubscribing


async def test_resubscribing_unsubscribes_and_subscribes(registry: Registry) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        await ack_all(end)

    async with running(registry, answer) as rig:
        await rig.clock.sleep(1)
        await rig.supervisor.resubscribe([Subscription("BTC/USD", "trades")])
        await rig.clock.sleep(1)
    ops = [json.loads(text)["op"] for text in rig.wire.ends[0].sent]

    assert ops == ["sub", "unsub", "sub"]
    assert rig.states() == ["connected", "subscribed", "subscribed"]
    assert rig.supervisor.wanted == [Subscription("BTC/USD", "trades")]


async def test_resubscribes_are_at_least_five_seconds_apart(registry: Registry) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        while True:
            text = await end.take()
            if json.loads(text)["op"] == "unsub":
                times.append(clock.monotonic())
            end.push(ok(text))

    times: list[float] = []
    async with running(registry, answer) as rig:
        await rig.clock.sleep(1)
        for _ in range(3):
            await rig.supervisor.resubscribe([Subscription("BTC/USD", "trades")])

    assert times == pytest.approx([1, 6, 11], abs=0.2)


async def test_a_refused_unsubscribe_removes_no_subscription(registry: Registry) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        while True:
            text = await end.take()
            message = json.loads(text)
            refusal = {"error": "not now", "id": message["id"]}
            end.push(ok(text) if message["op"] == "sub" else json.dumps(refusal))

    async with running(registry, answer) as rig:
        await rig.clock.sleep(1)
        await rig.supervisor.resubscribe([Subscription("BTC/USD", "trades")])
        await rig.clock.sleep(1)

    assert rig.error is None
    assert rig.supervisor.wanted == [Subscription("BTC/USD", "trades")]


# ------------------------------------------------------------------------- limits of a whole host


async def test_the_message_limit_of_a_host_is_shared_by_its_connections(
    registry: Registry, acme: Any
) -> None:
    acme.endpoint = {
        "host_message_rate": Rate(5, 10.0),
        "max_subscriptions": 10,
        "message_rate": None,
    }
    acme.endpoint["ack_timeout_seconds"] = 1e6
    clock = VirtualClock()
    times: list[float] = []

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        while True:
            end.push(ok(await end.take()))
            times.append(clock.monotonic())

    feed = FeedSpec("acme", [f"S{n}/USD" for n in range(120)], ["trades"])
    wire = FakeWire(answer)
    with anyio.fail_after(10):
        async with (
            clock.running(),
            tapeloom.open(feed, registry=registry, clock=clock, dial=wire.dial) as stream,
        ):
            async for event in stream:
                if isinstance(event, Status) and len(times) == 12:
                    stream.stop()

    # Unsubscribing at the end counts as well.
    assert 12 <= len(times) <= 17
    assert windows(times, 10.0) <= 5


def test_more_connections_than_the_venue_allows_are_refused_before_any_is_made(
    registry: Registry, acme: Any
) -> None:
    acme.endpoint = {"max_connections": 2, "max_subscriptions": 10}
    feeds = [
        FeedSpec("acme", [f"S{n}/USD" for n in range(15)], ["trades"], name="one"),
        FeedSpec("acme", ["BTC/USD"], ["trades"], name="two"),
    ]

    with pytest.raises(ConfigError, match="allows 2 connections to ws://acme"):
        tapeloom.open(feeds, registry=registry)
    tapeloom.open(feeds[:1], registry=registry)


@pytest.mark.parametrize("message", ["still here", None])
async def test_an_unanswered_heartbeat_ends_the_connection_where_a_reply_timeout_is_set(
    registry: Registry, acme: Any, message: str | None
) -> None:
    acme.endpoint = {"heartbeat": Heartbeat(20.0, message, 10.0), "silence_timeout_seconds": 1e6}

    async def answer(end: WireEnd, endpoint: Endpoint, number: int, clock: VirtualClock) -> None:
        while True:
            text = await end.take()
            if text.startswith("{"):
                end.push(ok(text))
            elif number == 2:
                end.push(*(['{"pong": 1}'] if message else []))

    async with running(registry, answer) as rig:
        await rig.clock.sleep(300)
    (reconnecting,) = [s for s in rig.of(Status) if s.state == "reconnecting"]

    assert "does not answer heartbeats" in reconnecting.detail
    assert rig.dials == pytest.approx([0, 31], abs=1.6)
