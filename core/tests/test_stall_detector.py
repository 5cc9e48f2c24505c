"""StallDetector: stalled subscriptions are found by their cadence, quiet ones are left alone."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from itertools import pairwise
from typing import Any

import anyio
import pytest
import tapeloom
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom import Event, FeedSpec, Gap, Registry, Status, Trade
from tapeloom._connection.stall_detector import StallDetector, Stalled
from tapeloom._gaps.last_seen import LastSeen
from tapeloom.plugin import Endpoint, Subscription, TradeBatch
from tapeloom_testing import FakeWire, VirtualClock, WireEnd

ONE = Decimal(1)
BTC, ETH = Subscription("BTC/USD", "trades"), Subscription("ETH/USD", "trades")
BOOK = Subscription("BTC/USD", "book")


def trade(subscription: Subscription) -> Event:
    return Trade("acme", subscription.symbol, 1, 1, ONE, ONE, "buy", 1, subscription.channel)


class Detector(StallDetector):
    """A StallDetector that is checked with what LastSeen found active."""

    def __init__(self) -> None:
        super().__init__()
        self.last_seen = LastSeen()
        self.add = self.last_seen.add

    def check_at(self, now: float, reads: int = 0) -> list[Stalled]:
        return self.check(self.last_seen.pop_active([*self._cadences]), now, reads)


def seconds_until_stalled(detector: Detector, start: int, seconds: int) -> int | None:
    """Return the seconds of silence until a subscription is found stalled, None if none is."""
    for n in range(1, seconds):
        if detector.check_at(start + n):
            return n
    return None


@pytest.mark.parametrize(("every", "found"), [(1, 6), (5, 90), (30, 590)])
def test_the_timeout_grows_with_the_pauses_between_events(every: int, found: int) -> None:
    detector = Detector()
    detector.start([BTC], 0)
    for now in range(59 * every + 1):
        if now % every == 0:
            detector.add([trade(BTC)])
        assert not detector.check_at(now)

    assert abs((seconds_until_stalled(detector, 59 * every, 5000) or 0) - found) <= 1


@pytest.mark.parametrize("step", [0.25, 1.0])
def test_a_subscription_with_many_events_a_second_is_found_stalled_in_seconds(step: float) -> None:
    detector = Detector()
    detector.start([BTC], 0)
    for n in range(100):
        detector.add([trade(BTC)])
        detector.check_at(n * step)

    assert seconds_until_stalled(detector, round(100 * step), 100) in (5, 6)


def test_many_rare_subscriptions_are_together_found_silent_after_seconds() -> None:
    detector = Detector()
    subscriptions = [Subscription(f"A{n}/USD", "trades") for n in range(10)]
    detector.start(subscriptions, 0)
    for now in range(600):
        detector.add([trade(subscriptions[now % 10])])
        assert not detector.check_at(now)
        assert not detector.all_silent_for(now)
    silent_seconds = []
    for now in range(600, 620):
        assert not detector.check_at(now)  # each of them is still within its own timeout
        silent_seconds.append(detector.all_silent_for(now))

    assert silent_seconds[:5] == [0.0] * 5
    assert silent_seconds[7:] == [float(seconds) for seconds in range(8, 21)]


def test_a_longer_pause_than_ever_is_maybe_stalled_before_it_is_stalled() -> None:
    detector = Detector()
    detector.start([BTC, ETH, BOOK], 0)
    for now in range(100):
        detector.add([trade(BTC), trade(BOOK)] if now % 5 == 0 else [trade(BOOK)])
        detector.check_at(now)

    assert detector.maybe_stalled(99) == {ETH: 0}  # it has had no event
    assert detector.maybe_stalled(101) == {ETH: 0}
    assert detector.maybe_stalled(102) == {ETH: 0, BOOK: 99, BTC: 95}


@settings(max_examples=60, deadline=None)
@given(st.integers(), st.floats(0.5, 30))
def test_random_events_are_not_found_stalled(seed: int, mean: float) -> None:
    rng = random.Random(seed)
    detector = Detector()
    detector.start([BTC], 0)
    times, at = [], 0.0
    while len(times) < 400:
        at += rng.expovariate(1 / mean)
        times.append(at)
    now = 0
    for at in times:
        while now < at:
            now += 1
            assert not [
                stalled for stalled in detector.check_at(now) if stalled.usual_pause is not None
            ]
        detector.add([trade(BTC)])


def test_a_never_active_subscription_is_found_with_growing_timeouts_and_only_while_others_are_active() -> (
    None
):
    detector = Detector()
    detector.start([BTC, ETH], 0)
    only_silent = [detector.check_at(now) for now in range(200)]
    found = []
    for now in range(200, 2000):
        detector.add([trade(BTC)])
        found += [(now, stalled.subscription) for stalled in detector.check_at(now)]

    assert not any(only_silent)
    assert {subscription for _, subscription in found} == {ETH}
    times = [now for now, _ in found]
    assert [later - sooner for sooner, later in pairwise(times)] == [121, 241, 481, 961][
        : len(times) - 1
    ]


@pytest.mark.parametrize("channel", ["trades", "quotes"])
def test_a_silence_after_a_few_trades_may_have_missed_some(channel: str) -> None:
    detector = Detector()
    subscription = Subscription("BTC/USD", channel)
    detector.start([subscription, ETH], 0)
    found = []
    for now in range(100):
        detector.add([trade(ETH), trade(subscription)] if now < 10 else [trade(ETH)])
        found += detector.check_at(now)

    (stalled,) = found
    assert (stalled.subscription, stalled.usual_pause) == (subscription, None)
    assert stalled.may_have_missed == (channel == "trades")


def test_a_book_that_never_came_is_found_stalled_with_growing_timeouts() -> None:
    detector = Detector()
    detector.start([BTC, BOOK], 0)
    found = []
    for now in range(1000):
        detector.add([trade(BTC)])
        found += [(now, stalled.subscription) for stalled in detector.check_at(now)]

    assert found == [(61, BOOK), (182, BOOK), (423, BOOK), (904, BOOK)]


def test_timeouts_stop_at_a_disconnect_until_the_next_acknowledgement() -> None:
    detector = Detector()
    detector.start([BTC, ETH], 0)
    for now in range(100):
        detector.add([trade(BTC), trade(ETH)])
        detector.check_at(now)
    detector.pause()
    detector.not_read_for(50, 100)

    assert not any(
        detector.check_at(now) or detector.all_silent_for(now) for now in range(100, 200)
    )
    detector.start([BTC], 200)
    found = [
        (now, stalled.subscription) for now in range(200, 220) for stalled in detector.check_at(now)
    ]
    assert found[0] == (206, BTC)
    assert detector.maybe_stalled(220)[BTC] == 200


def test_time_in_which_nothing_was_read_is_no_silence() -> None:
    detector = Detector()
    detector.start([BTC], 0)
    for now in range(60):
        detector.add([trade(BTC)])
        detector.check_at(now)
    detector.not_read_for(940, 1000)

    assert not detector.check_at(1001)


@pytest.mark.parametrize("blocked", [0.0, 1.5])
def test_a_stall_is_found_on_a_machine_that_is_blocked_again_and_again(blocked: float) -> None:
    detector = Detector()
    detector.start([BTC, ETH], 0)
    now, silent, found = 0.0, 0.0, list[Stalled]()
    while not found:
        now += 1 + blocked
        detector.not_read_for(blocked, now)
        detector.add([trade(ETH)])
        found = detector.check_at(now)
        silent += 1

    assert found[0].subscription == BTC
    assert silent == 61


def test_in_a_busy_feed_a_single_event_counts_as_activity() -> None:
    detector = Detector()
    detector.start([BTC, ETH], 0)
    for now in range(60):
        detector.add([trade(ETH)])
        for _ in range(10):
            detector.add(TradeBatch([trade(BTC)] * 400, [0] * 400))
        assert len(detector.last_seen.pop_sample()) <= 64
        assert not detector.check_at(now)

    assert {stalled.subscription for stalled in detector.check_at(200) if stalled.usual_pause} == {
        BTC,
        ETH,
    }


@pytest.mark.parametrize(("busy", "found"), [(1, 21), (2, 11), (3, 7), (4, 6), (10, 6), (30, 6)])
def test_a_busy_feed_is_found_silent_the_sooner_the_longer_it_was_seen(
    busy: int, found: int
) -> None:
    detector = Detector()
    detector.start([BTC, ETH], 0)
    for now in range(1, busy + 2):  # what the first check finds does not count
        detector.add([trade(BTC), trade(ETH)])
        detector.check_at(now, reads=50)
        assert not detector.all_silent_for(now)
    silent_since = busy + 1
    silences = []
    for now in range(silent_since + 1, silent_since + 30):
        detector.check(set(), now)
        silences.append(detector.all_silent_for(now))

    assert next(n for n, seconds in enumerate(silences, 1) if seconds) == found


@pytest.mark.parametrize(
    "reads",
    [
        [400],  # snapshots, right after subscribing
        [2] * 19,  # few
        [9, 2, 1, 9, 1, 2],  # slower than busy
        [9, 0, 0, 9, 0, 0, 9, 0, 0],  # with pauses
    ],
)
def test_a_feed_that_is_not_busy_in_its_first_seconds_is_not_found_silent(reads: list[int]) -> None:
    detector = Detector()
    detector.start([BTC], 0)
    for now, count in enumerate([*reads, *[0] * 59], 1):
        active = {(BTC.symbol, BTC.channel)} if count else set()
        detector.check(active, now, count)
        assert not detector.all_silent_for(now)


# --------------------------------------------------------------------------------- in a stream


@pytest.mark.parametrize("symbols", [["BTC/USD"], ["BTC/USD", "ETH/USD", "SOL/USD"]])
@pytest.mark.parametrize("with_pongs", [False, True])
@pytest.mark.parametrize(("at", "within"), [(2.6, 11.5), (6.0, 6.5), (15.0, 6.5)])
async def test_a_connection_that_falls_silent_in_its_first_seconds_is_replaced_and_its_gap_told(
    registry: Registry, symbols: list[str], with_pongs: bool, at: float, within: float
) -> None:
    """It stays open; with pongs, bytes go on arriving too."""
    clock = VirtualClock(0)
    connections = 0

    async def serve(end: WireEnd, endpoint: Endpoint) -> None:
        nonlocal connections
        connections += 1
        connection = connections
        message = json.loads(await end.take())
        end.push(json.dumps({"ok": message["id"]}))
        number = 0
        while True:
            await clock.sleep(0.05)
            now = clock.monotonic()
            if connection > 1 or now < at:
                number += 1
                for symbol in symbols:
                    name, ts = symbol.replace("/", ""), round(now * 1e9)
                    body = {"s": name, "t": ts, "p": "1", "q": "1", "i": 1000 * connection + number}
                    end.push(json.dumps(body))
            elif with_pongs:
                end.push('{"pong": 1}')

    events: list[Event] = []
    with anyio.fail_after(30):
        async with (
            clock.running(),
            tapeloom.open(
                FeedSpec("acme", symbols, ["trades"]),
                registry=registry, clock=clock, dial=FakeWire(serve).dial, seed=1,
            ) as stream,
        ):  # fmt: skip
            async for event in stream:
                events.append(event)
                if clock.monotonic() > at + within + 2:
                    stream.stop()
    lost = [
        event for event in events if isinstance(event, Status) and event.state == "reconnecting"
    ]
    gaps = {event.symbol: event for event in events if isinstance(event, Gap)}

    assert len(lost) == 1
    assert "no subscription had an event for" in lost[0].detail
    assert 5.0 <= lost[0].recv / 1e9 - at <= within
    assert set(gaps) == set(symbols)
    assert all(at - 2.0 <= gap.since / 1e9 <= at for gap in gaps.values())


class Exchange:
    """A venue with one trade a second per symbol, not sent where `is_stalled` returns True.

    `is_stalled(coin, now, subscribe_count, connection)`; coins are native symbols.
    """

    def __init__(self, clock: VirtualClock, is_stalled: Any) -> None:
        self.clock, self.is_stalled = clock, is_stalled
        self.ops: list[str] = []
        self.count = 0

    async def serve(self, end: WireEnd, endpoint: Endpoint) -> None:
        self.count += 1
        wanted: dict[str, int] = {}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.trade, end, wanted, self.count)
            while True:
                message = json.loads(await end.take())
                self.ops.append(message["op"])
                for name in message["args"]:
                    if message["op"] == "sub":
                        wanted[name] = wanted.get(name, 0) + 1
                end.push(json.dumps({"ok": message["id"]}))

    async def trade(self, end: WireEnd, wanted: dict[str, int], connection: int) -> None:
        while True:
            await self.clock.sleep(1)
            now = round(self.clock.monotonic())
            for name, count in wanted.items():
                coin = name.partition("@")[0]
                if not self.is_stalled(coin, now, count, connection):
                    end.push(json.dumps({"s": coin, "t": now, "p": "1", "q": "1", "i": now}))


async def story(
    registry: Registry, is_stalled: Any, seconds: float, symbols: list[str]
) -> tuple[list[Event], Exchange]:
    clock = VirtualClock(0)
    exchange = Exchange(clock, is_stalled)
    events: list[Event] = []
    with anyio.fail_after(20):
        async with (
            clock.running(),
            tapeloom.open(
                FeedSpec("acme", symbols, ["trades"]),
                registry=registry,
                clock=clock,
                dial=FakeWire(exchange.serve).dial,
                seed=1,
            ) as stream,
            anyio.create_task_group() as tasks,
        ):

            async def collect() -> None:
                async for event in stream:
                    events.append(event)  # noqa: PERF401

            tasks.start_soon(collect)
            await clock.sleep(seconds)
            tasks.cancel_scope.cancel()
    return events, exchange


def states(events: list[Event]) -> list[tuple[str, str]]:
    return [
        (event.state, event.symbol)
        for event in events
        if isinstance(event, Status) and event.state in {"stalled", "reconnecting"}
    ]


THREE = ["BTC/USD", "ETH/USD", "SOL/USD"]
AT_THE_END = ["unsub"]  #: sent when the stream is closed


async def test_a_stalled_subscription_is_resubscribed_and_its_gap_is_reported(
    registry: Registry,
) -> None:
    def is_stalled(coin: str, now: int, count: int, connection: int) -> bool:
        return coin == "BTCUSD" and now > 60 and count == 1

    events, exchange = await story(registry, is_stalled, 120, THREE)
    (gap,) = [event for event in events if isinstance(event, Gap)]

    assert exchange.ops == ["sub", "unsub", "sub", *AT_THE_END]
    assert states(events) == [("stalled", "BTC/USD")]
    assert (gap.symbol, gap.channel, gap.cause) == ("BTC/USD", "trades", "stall")
    assert gap.since <= 61_000_000_000
    assert gap.until < 85_000_000_000


async def test_a_subscription_that_stays_stalled_ends_the_connection_once(
    registry: Registry,
) -> None:
    def is_stalled(coin: str, now: int, count: int, connection: int) -> bool:
        return coin == "BTCUSD" and now > 60

    events, exchange = await story(registry, is_stalled, 1500, THREE)

    assert exchange.count == 2
    assert states(events)[:3] == [
        ("stalled", "BTC/USD"),
        ("reconnecting", ""),
        ("stalled", "BTC/USD"),
    ]
    assert len(states(events)) < 9


async def test_a_connection_on_which_all_subscriptions_stall_is_ended_at_once(
    registry: Registry,
) -> None:
    def is_stalled(coin: str, now: int, count: int, connection: int) -> bool:
        return now > 60 and connection == 1

    events, exchange = await story(registry, is_stalled, 120, THREE)

    assert exchange.ops == ["sub", "sub", *AT_THE_END]
    assert states(events) == [("reconnecting", "")]
    assert {event.symbol for event in events if isinstance(event, Gap)} == set(THREE)


async def test_a_rarely_traded_symbol_is_not_found_stalled(registry: Registry) -> None:
    def is_stalled(coin: str, now: int, count: int, connection: int) -> bool:
        return coin == "BTCUSD" and now % 45 != 0

    events, exchange = await story(registry, is_stalled, 3600, THREE)

    assert exchange.ops == ["sub", *AT_THE_END]
    assert states(events) == []
    assert not [event for event in events if isinstance(event, Gap)]
