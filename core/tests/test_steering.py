"""A plugin that steers which symbols a stream has."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import attrs
import pytest
import tapeloom
from tapeloom import Gap, Registry, Status, Trade
from tapeloom.errors import BackendUnsupported, ConfigError, Mistake, TapeloomError
from tapeloom.hooks import hookimpl
from tapeloom.plugin import Endpoint, FeedOutline, Steered, SteeredFeed
from tapeloom_testing import FakeVenue, FakeWire, WireEnd

pytestmark = pytest.mark.anyio


@attrs.frozen
class Words:
    word: str = ""


STACK: dict[str, Any] = {
    "feed": [{"venue": "acme", "symbols": ["BTC/USD", "ETH/USD"], "channels": ["trades"]}],
    "cluster": {"use": "steerer", "word": "north"},
}


class Steerer:
    """A plugin whose steering runs the function that a test gives it."""

    def __init__(
        self,
        play: Callable[[Steered], Awaitable[None]],
        backends: Sequence[str] = ("asyncio", "trio"),
    ) -> None:
        self.play = play
        self.backends = frozenset(backends)
        self.feeds: Sequence[FeedOutline] = ()
        self.settings: Any = None

    @hookimpl
    def steer(self, settings: Any, feeds: Sequence[FeedOutline]) -> Any:
        self.settings, self.feeds = settings, feeds
        return self

    @hookimpl(specname="settings")
    def settings_class(self) -> type[Any]:
        return Words

    async def run(self, steered: Steered) -> None:
        await self.play(steered)
        await anyio.sleep_forever()

    def describe(self) -> Sequence[str]:
        return ["one line"]


def trade(number: int, native: str) -> str:
    return json.dumps({"s": native, "t": number, "p": "1.5", "q": "2", "i": number})


async def market(end: WireEnd, endpoint: Endpoint) -> None:
    """Acknowledge each request, and send a trade of each symbol that is subscribed."""
    while True:
        request = json.loads(await end.take())
        end.push(json.dumps({"ok": request["id"]}))
        if request["op"] == "sub":
            for argument in request["args"]:
                end.push(trade(7, argument.partition("@")[0]))


async def silent(end: WireEnd, endpoint: Endpoint) -> None:
    """Acknowledge each request, and send nothing else."""
    while True:
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))


async def until_live(feed: SteeredFeed, symbol: str) -> None:
    """Wait until the venue has answered the subscriptions of a symbol."""
    with anyio.fail_after(5):
        while not feed.is_live([symbol]):  # noqa: ASYNC110
            await anyio.sleep(0.01)


def opened(registry: Registry, steerer: Steerer, wire: FakeWire) -> Any:
    registry.register(steerer, "steerer")
    return tapeloom.open(STACK, registry=registry, dial=wire.dial, seed=1)


async def first(consumer: Any, count: int) -> list[Any]:
    found: list[Any] = []
    with anyio.fail_after(5):
        async for event in consumer:
            found.append(event)
            if len(found) == count:
                break
    return found


async def test_a_steered_feed_starts_without_symbols_and_streams_those_that_are_added(
    registry: Registry,
) -> None:
    live: list[bool] = []

    async def play(steered: Steered) -> None:
        feed = steered.feeds["acme"]
        await feed.add(["ETH/USD"], {})
        live.append(feed.is_live(["ETH/USD"]))
        await until_live(feed, "ETH/USD")
        live.append(True)

    wire = FakeWire(market)
    steerer = Steerer(play)
    async with opened(registry, steerer, wire) as stream:
        trades = await first(stream.of(Trade), 1)
        with anyio.fail_after(5):
            while len(live) < 2:  # noqa: ASYNC110
                await anyio.sleep(0.01)

    assert [event.symbol for event in trades] == ["ETH/USD"]
    assert live == [False, True]
    assert [(feed.name, feed.symbols) for feed in steerer.feeds] == [
        ("acme", ("BTC/USD", "ETH/USD"))
    ]
    assert steerer.settings == Words("north")


async def test_a_connection_without_symbols_is_closed_and_opened_again_when_one_is_added(
    registry: Registry,
) -> None:
    async def play(steered: Steered) -> None:
        feed = steered.feeds["acme"]
        for symbol in ("BTC/USD", "ETH/USD"):
            await feed.add([symbol], {})
            await until_live(feed, symbol)
            if symbol == "BTC/USD":
                await feed.drop([symbol])

    wire = FakeWire(market)
    async with opened(registry, Steerer(play), wire) as stream:
        trades = await first(stream.of(Trade), 2)

    assert [event.symbol for event in trades] == ["BTC/USD", "ETH/USD"]
    assert len(wire.ends) == 2


async def test_added_symbols_continue_after_the_positions_that_are_stored(
    registry: Registry,
) -> None:
    stored = {json.dumps(["acme", "BTC/USD", "trades"]): json.dumps({"ts": 3})}

    async def play(steered: Steered) -> None:
        await steered.feeds["acme"].add(["BTC/USD", "ETH/USD"], stored)

    async with opened(registry, Steerer(play), FakeWire(market)) as stream:
        found = await first(stream.of(Trade, Gap), 3)
    gaps = [event for event in found if isinstance(event, Gap)]

    assert [(gap.symbol, gap.since, gap.cause) for gap in gaps] == [("BTC/USD", 3, "restart")]


async def test_symbols_that_are_dropped_before_they_were_subscribed_to_continue_after_nothing(
    registry: Registry,
) -> None:
    """A node may lose the symbols that it took over before its feeds have connected."""
    stored = {json.dumps(["acme", "BTC/USD", "trades"]): json.dumps({"ts": 3})}

    async def play(steered: Steered) -> None:
        feed = steered.feeds["acme"]
        await feed.add(["BTC/USD"], stored)
        await feed.drop(["BTC/USD"])
        await feed.add(["BTC/USD", "ETH/USD"], {})

    async with opened(registry, Steerer(play), FakeWire(market)) as stream:
        found = await first(stream.of(Trade, Gap), 3)

    # The gap is told as the symbol is dropped, and not again with what comes when it was added anew.
    assert [type(event) for event in found] == [Gap, Trade, Trade]
    assert {event.symbol for event in found[1:]} == {"BTC/USD", "ETH/USD"}


async def test_the_gap_of_a_symbol_that_is_dropped_before_it_had_an_event_is_told(
    registry: Registry,
) -> None:
    """Who drops it has handed it over: what was missed before it was subscribed to has nobody else to tell."""
    stored = {json.dumps(["acme", "BTC/USD", "trades"]): json.dumps({"ts": 3})}

    async def play(steered: Steered) -> None:
        feed = steered.feeds["acme"]
        await feed.add(["BTC/USD"], stored)
        await until_live(feed, "BTC/USD")
        await feed.drop(["BTC/USD"])

    async with opened(registry, Steerer(play), FakeWire(silent)) as stream:
        (gap,) = await first(stream.of(Gap), 1)

    assert (gap.symbol, gap.since, gap.cause, gap.state) == (
        "BTC/USD", 3, "restart", "unrecoverable",
    )  # fmt: skip


class Archive:
    """What a venue answers over REST: the trades 4, 5 and 6."""

    def get(self, path: str, default: Any = None) -> Any:
        rows = [json.loads(trade(number, "BTCUSD")) for number in (4, 5, 6)]
        return 200, {}, json.dumps(["BTC/USD"] if path == "/symbols" else rows).encode()


async def test_what_was_missed_of_a_quiet_symbol_is_fetched_before_it_is_dropped(
    registry: Registry,
) -> None:
    """Whoever goes on has begun beside it, and cannot know of it."""
    position = json.dumps({"ts": 3, "last": [3, 3, 3]})
    stored = {json.dumps(["acme", "BTC/USD", "trades"]): position}

    async def play(steered: Steered) -> None:
        feed = steered.feeds["acme"]
        await feed.add(["BTC/USD"], stored)
        await until_live(feed, "BTC/USD")
        await feed.fill_gaps(["BTC/USD"], 4.0)
        await feed.drop(["BTC/USD"])
        await steered.emit([Status("acme", "BTC/USD", 9, 9, "released")])

    venue = FakeVenue(lambda client: anyio.sleep_forever(), http=Archive())  # type: ignore[arg-type]
    async with venue.serve():
        rest = {"venue": {"acme": {"rest": venue.url("http"), "past_trades": True}}}
        registry.register(Steerer(play), "steerer")
        wire = FakeWire(silent)
        stack = {**STACK, **rest}
        async with tapeloom.open(stack, registry=registry, dial=wire.dial, seed=1) as stream:
            found: list[Any] = []
            with anyio.fail_after(5):
                async for event in stream.of(Trade, Gap, Status):
                    found.append(event.id if isinstance(event, Trade) else event.state)
                    if found[-1] == "released":
                        break

    assert found[-6:] == ["open", 4, 5, 6, "filled", "released"]


async def test_symbols_that_are_added_when_the_feeds_have_ended_are_not_subscribed_to(
    registry: Registry,
) -> None:
    """A node of a cluster may be given the symbols of another one while both are being stopped."""
    added = anyio.Event()

    async def play(steered: Steered) -> None:
        feed = steered.feeds["acme"]
        await feed.add(["ETH/USD"], {})
        consumer = stream.of(Trade)
        await first(consumer, 1)
        stream.stop()
        async for _ in consumer:
            pass  # until the feeds have ended
        await feed.add(["BTC/USD"], {})
        added.set()

    async with opened(registry, Steerer(play), FakeWire(market)) as stream:
        with anyio.fail_after(5):
            await stream.run()
            await added.wait()


async def test_what_the_steering_emits_is_delivered(registry: Registry) -> None:
    status = Status("acme", "BTC/USD", 5, 5, "released", "shard 1")

    async def play(steered: Steered) -> None:
        await steered.emit([status])

    async with opened(registry, Steerer(play), FakeWire(market)) as stream:
        assert await first(stream.of(Status), 1) == [status]


async def test_a_steering_that_fails_ends_the_stream_with_its_error(registry: Registry) -> None:
    async def play(steered: Steered) -> None:
        raise ConfigError([Mistake("cluster", "it is another one")])

    with pytest.raises(TapeloomError, match="another one"), anyio.fail_after(5):
        async with opened(registry, Steerer(play), FakeWire(market)) as stream:
            await stream.run()


async def test_a_steering_is_refused_on_an_event_loop_that_it_does_not_know(
    registry: Registry, anyio_backend: str
) -> None:
    async def play(steered: Steered) -> None:
        raise AssertionError("it must not run")

    other = {"asyncio": "trio", "trio": "asyncio"}[anyio_backend]
    with pytest.raises(BackendUnsupported, match="steerer"):
        async with opened(registry, Steerer(play, [other]), FakeWire(market)):
            pass


def test_a_plugin_that_does_not_steer_is_a_mistake(registry: Registry) -> None:
    stack = {**STACK, "cluster": {"use": "marker"}}
    with pytest.raises(ConfigError, match="'marker' forms no cluster"):
        tapeloom.open(stack, registry=registry)
