"""What has fallen silent is found by how often it used to speak; what is quiet is left in peace."""

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


def word(one: Subscription) -> Event:
    return Trade("acme", one.symbol, 1, 1, ONE, ONE, "buy", 1, one.channel)


class Listener(StallDetector):
    """Silence that is told what a session's memory has heard of late."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = LastSeen()
        self.note = self.memory.note

    def look(self, now: float) -> list[Stalled]:
        return self.judge(self.memory.spoke(), now)


def first_strike(silence: Listener, start: int, seconds: int) -> int | None:
    """Return after how many seconds of silence the first one is found to be mute."""
    for n in range(1, seconds):
        if silence.look(start + n):
            return n
    return None


@pytest.mark.parametrize(("every", "found"), [(1, 6), (5, 90), (30, 590)])
def test_patience_grows_with_the_pauses_between_words(every: int, found: int) -> None:
    silence = Listener()
    silence.begin([BTC], 0)
    for now in range(59 * every + 1):
        if now % every == 0:
            silence.note([word(BTC)])
        assert not silence.look(now)

    assert abs((first_strike(silence, 59 * every, 5000) or 0) - found) <= 1


@pytest.mark.parametrize("step", [0.25, 1.0])
def test_what_speaks_many_times_a_second_is_found_mute_in_seconds(step: float) -> None:
    silence = Listener()
    silence.begin([BTC], 0)
    for n in range(100):
        silence.note([word(BTC)])
        silence.look(n * step)

    assert first_strike(silence, round(100 * step), 100) in (5, 6)


def test_many_that_speak_seldom_are_together_missed_after_seconds() -> None:
    silence = Listener()
    some = [Subscription(f"A{n}/USD", "trades") for n in range(10)]
    silence.begin(some, 0)
    for now in range(600):
        silence.note([word(some[now % 10])])
        assert not silence.look(now)
        assert not silence.hushed(now)
    hushed = []
    for now in range(600, 620):
        assert not silence.look(now)  # for each alone that is no wonder
        hushed.append(silence.hushed(now))

    assert hushed[:5] == [0.0] * 5
    assert hushed[7:] == [float(seconds) for seconds in range(8, 21)]


def test_what_says_less_than_ever_is_doubtful_before_it_is_silent() -> None:
    silence = Listener()
    silence.begin([BTC, ETH, BOOK], 0)
    for now in range(100):
        silence.note([word(BTC), word(BOOK)] if now % 5 == 0 else [word(BOOK)])
        silence.look(now)

    assert silence.doubtful(99) == {ETH: 0}  # it has never spoken
    assert silence.doubtful(101) == {ETH: 0}
    assert silence.doubtful(102) == {ETH: 0, BOOK: 99, BTC: 95}


@settings(max_examples=60, deadline=None)
@given(st.integers(), st.floats(0.5, 30))
def test_what_speaks_at_random_is_not_taken_for_mute(seed: int, mean: float) -> None:
    chance = random.Random(seed)
    silence = Listener()
    silence.begin([BTC], 0)
    words, at = [], 0.0
    while len(words) < 400:
        at += chance.expovariate(1 / mean)
        words.append(at)
    now = 0
    for at in words:
        while now < at:
            now += 1
            assert not [each for each in silence.look(now) if each.usual is not None]
        silence.note([word(BTC)])


def test_what_never_spoke_is_asked_for_later_and_later_and_only_where_others_speak() -> None:
    silence = Listener()
    silence.begin([BTC, ETH], 0)
    alone = [silence.look(now) for now in range(200)]
    strikes = []
    for now in range(200, 2000):
        silence.note([word(BTC)])
        strikes += [(now, each.subscription) for each in silence.look(now)]

    assert not any(alone)
    assert {one for _, one in strikes} == {ETH}
    times = [now for now, _ in strikes]
    assert [later - sooner for sooner, later in pairwise(times)] == [121, 241, 481, 961][
        : len(times) - 1
    ]


def test_a_book_that_never_came_is_asked_for_again_later_and_later() -> None:
    silence = Listener()
    silence.begin([BTC, BOOK], 0)
    strikes = []
    for now in range(1000):
        silence.note([word(BTC)])
        strikes += [(now, each.subscription) for each in silence.look(now)]

    assert strikes == [(61, BOOK), (182, BOOK), (423, BOOK), (904, BOOK)]


def test_nothing_is_awaited_of_a_connection_that_has_ended_until_the_venue_agrees_anew() -> None:
    silence = Listener()
    silence.begin([BTC, ETH], 0)
    for now in range(100):
        silence.note([word(BTC), word(ETH)])
        silence.look(now)
    silence.rest()
    silence.excuse(100)

    assert not any(silence.look(now) or silence.hushed(now) for now in range(100, 200))
    silence.begin([BTC], 200)
    found = [(now, each.subscription) for now in range(200, 220) for each in silence.look(now)]
    assert found[0] == (206, BTC)
    assert silence.doubtful(220)[BTC] == 200


def test_silence_of_our_own_making_is_excused() -> None:
    silence = Listener()
    silence.begin([BTC], 0)
    for now in range(60):
        silence.note([word(BTC)])
        silence.look(now)
    silence.excuse(1000)

    assert not silence.look(1001)


def test_in_a_busy_feed_a_single_word_is_heard_too() -> None:
    silence = Listener()
    silence.begin([BTC, ETH], 0)
    for now in range(60):
        silence.note([word(ETH)])
        for _ in range(10):
            silence.note(TradeBatch([word(BTC)] * 400, [0] * 400))
        assert len(silence.memory.sample()) <= 64
        assert not silence.look(now)

    assert {each.subscription for each in silence.look(200) if each.usual} == {BTC, ETH}


# --------------------------------------------------------------------------------- in a session


class Exchange:
    """Trades every coin once a second; `mute(coin, now, turn, connection)` is not told of it."""

    def __init__(self, clock: VirtualClock, mute: Any) -> None:
        self.clock, self.mute = clock, mute
        self.said: list[str] = []
        self.count = 0

    async def serve(self, end: WireEnd, endpoint: Endpoint) -> None:
        self.count += 1
        wanted: dict[str, int] = {}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.talk, end, wanted, self.count)
            while True:
                message = json.loads(await end.take())
                self.said.append(message["op"])
                for name in message["args"]:
                    if message["op"] == "sub":
                        wanted[name] = wanted.get(name, 0) + 1
                end.push(json.dumps({"ok": message["id"]}))

    async def talk(self, end: WireEnd, wanted: dict[str, int], connection: int) -> None:
        while True:
            await self.clock.sleep(1)
            now = round(self.clock.monotonic())
            for name, turn in wanted.items():
                coin = name.partition("@")[0]
                if not self.mute(coin, now, turn, connection):
                    end.push(json.dumps({"s": coin, "t": now, "p": "1", "q": "1", "i": now}))


async def story(
    registry: Registry, mute: Any, seconds: float, symbols: list[str]
) -> tuple[list[Event], Exchange]:
    clock = VirtualClock(0)
    exchange = Exchange(clock, mute)
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
AT_THE_END = ["unsub"]  #: what a stream says when it is left


async def test_a_stream_that_falls_silent_is_subscribed_anew_and_its_hole_is_told(
    registry: Registry,
) -> None:
    def mute(coin: str, now: int, turn: int, connection: int) -> bool:
        return coin == "BTCUSD" and now > 60 and turn == 1

    events, exchange = await story(registry, mute, 120, THREE)
    (gap,) = [event for event in events if isinstance(event, Gap)]

    assert exchange.said == ["sub", "unsub", "sub", *AT_THE_END]
    assert states(events) == [("stalled", "BTC/USD")]
    assert (gap.symbol, gap.channel, gap.cause) == ("BTC/USD", "trades", "stall")
    assert gap.since <= 61_000_000_000
    assert gap.until < 85_000_000_000


async def test_a_stream_that_stays_silent_costs_the_connection_once(registry: Registry) -> None:
    def mute(coin: str, now: int, turn: int, connection: int) -> bool:
        return coin == "BTCUSD" and now > 60

    events, exchange = await story(registry, mute, 1500, THREE)

    assert exchange.count == 2
    assert states(events)[:3] == [
        ("stalled", "BTC/USD"),
        ("reconnecting", ""),
        ("stalled", "BTC/USD"),
    ]
    assert len(states(events)) < 9


async def test_a_connection_on_which_all_fall_silent_is_left_at_once(registry: Registry) -> None:
    def mute(coin: str, now: int, turn: int, connection: int) -> bool:
        return now > 60 and connection == 1

    events, exchange = await story(registry, mute, 120, THREE)

    assert exchange.said == ["sub", "sub", *AT_THE_END]
    assert states(events) == [("reconnecting", "")]
    assert {event.symbol for event in events if isinstance(event, Gap)} == set(THREE)


async def test_a_quiet_coin_does_not_flap(registry: Registry) -> None:
    def mute(coin: str, now: int, turn: int, connection: int) -> bool:
        return coin == "BTCUSD" and now % 45 != 0

    events, exchange = await story(registry, mute, 3600, THREE)

    assert exchange.said == ["sub", *AT_THE_END]
    assert states(events) == []
    assert not [event for event in events if isinstance(event, Gap)]
