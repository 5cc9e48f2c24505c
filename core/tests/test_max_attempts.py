"""`max_attempts`: without it a failing connection is retried for ever, with it the feed ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
import tapeloom
from tapeloom import Event, FeedSpec, Registry, Stack, Status, Trade
from tapeloom.errors import ConfigError, ConnectionFailed, ConnectionLost, RetriesExhausted
from tapeloom.hooks import hookimpl
from tapeloom.plugin import Endpoint, Feed
from tapeloom_testing import FakeWire, VirtualClock, WireEnd

HOUR = 3600.0


def refusals(count: int) -> list[Exception]:
    return [ConnectionFailed("acme", "it refused the connection") for _ in range(count)]


async def acking(end: WireEnd, endpoint: Endpoint) -> None:
    while True:
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))


def spec(symbols: Sequence[str] = ("BTC/USD",), **more: Any) -> FeedSpec:
    return FeedSpec("acme", symbols, ["trades"], **more)


async def events_until_the_end(
    registry: Registry, wire: FakeWire, feed: FeedSpec, clock: VirtualClock, seconds: float = HOUR
) -> tuple[list[Event], Exception | None]:
    """Return the events of so many seconds, or until the stream failed, and its error."""
    events: list[Event] = []
    error: Exception | None = None

    async def collect(stream: tapeloom.Stream) -> None:
        nonlocal error
        try:
            async for event in stream:
                events.append(event)  # noqa: PERF401 - what came before the error counts
        except RetriesExhausted as exhausted:
            error = exhausted
        tasks.cancel_scope.cancel()

    with anyio.fail_after(20):
        async with (
            clock.running(),
            tapeloom.open(feed, registry=registry, dial=wire.dial, clock=clock, seed=1) as stream,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(collect, stream)
            await clock.sleep(seconds)
            tasks.cancel_scope.cancel()
    return events, error


def statuses(events: Sequence[Event], state: str) -> list[Status]:
    return [event for event in events if isinstance(event, Status) and event.state == state]


async def test_without_max_attempts_a_venue_that_is_down_is_dialled_for_ever(
    registry: Registry,
) -> None:
    wire = FakeWire(acking, refusals=refusals(10_000))
    events, error = await events_until_the_end(registry, wire, spec(), VirtualClock(), 24 * HOUR)

    assert error is None
    assert len(statuses(events, "reconnecting")) > 1000
    assert statuses(events, "failed") == []


@pytest.mark.parametrize("max_attempts", [1, 3])
async def test_after_max_attempts_the_feed_ends_with_the_reason(
    registry: Registry, max_attempts: int
) -> None:
    wire = FakeWire(acking, refusals=refusals(10))
    feed = spec(max_attempts=max_attempts)
    events, error = await events_until_the_end(registry, wire, feed, VirtualClock())

    assert isinstance(error, RetriesExhausted)
    assert error.attempts == max_attempts
    assert isinstance(error.__cause__, ConnectionFailed)
    assert "it refused the connection" in str(error)
    assert "raise max_attempts in [[feed]]" in str(error)
    assert len(wire.refusals) == 10 - max_attempts  # and no further attempt
    assert len(statuses(events, "reconnecting")) == max_attempts - 1
    assert [status.detail for status in statuses(events, "failed")] == [str(error)]


async def test_only_attempts_in_a_row_count_and_a_long_connection_resets_them(
    registry: Registry,
) -> None:
    clock = VirtualClock()
    lives = iter([70.0, 70.0, 1.0, 1.0])  # a minute is healthy

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))
        await clock.sleep(next(lives))
        end.close(1006)

    wire = FakeWire(answer)
    events, error = await events_until_the_end(registry, wire, spec(max_attempts=3), clock)

    assert isinstance(error, RetriesExhausted)
    assert isinstance(error.__cause__, ConnectionLost)
    # Each healthy life began the count anew, with its own end as the first of the row.
    assert len(wire.ends) == 4
    assert len(statuses(events, "reconnecting")) == 3


async def test_an_abandoned_connection_ends_its_own_subscriptions_only(
    registry: Registry, acme: Any
) -> None:
    """Two connections: the first is refused until it is given up, the second goes on."""
    acme.endpoint = {"max_subscriptions": 1}
    clock = VirtualClock()

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        asked = json.loads(await end.take())
        end.push(json.dumps({"ok": asked["id"]}))
        if asked["args"] == ["ETHUSD@trades"]:
            end.close(1006)
            return
        for n in range(1000):
            await clock.sleep(1.0)
            end.push(json.dumps({"s": "BTCUSD", "t": n, "p": "1", "q": "1", "i": n}))

    wire = FakeWire(answer)
    feed = spec(("BTC/USD", "ETH/USD"), max_attempts=4)
    events, error = await events_until_the_end(registry, wire, feed, clock, 600.0)
    ended = statuses(events, "abandoned")

    assert error is None
    assert [(status.symbol, status.channel) for status in ended] == [("ETH/USD", "trades")]
    assert "given up after 4 attempts in a row" in ended[0].detail
    assert len([event for event in events if isinstance(event, Trade)]) > 500
    assert statuses(events, "failed") == []


async def test_a_source_ends_after_max_attempts_like_a_connection(registry: Registry) -> None:
    class FailingSource:
        backends = frozenset({"asyncio", "trio"})
        channels = frozenset({"trades"})
        resumes = False
        runs = 0

        async def run(self, deliver: Any) -> None:
            self.runs += 1
            raise ConnectionLost("well", "the gateway closed the connection")

        def symbols_changed(self) -> None:
            pass

    source = FailingSource()

    class Plugin:
        @hookimpl
        def connect(self, feed: Feed) -> FailingSource:
            return source

    registry.register(Plugin(), "well")
    feed = FeedSpec("well", ["BTC/USD"], ["trades"], max_attempts=5)
    events, error = await events_until_the_end(registry, FakeWire(acking), feed, VirtualClock())

    assert isinstance(error, RetriesExhausted)
    assert isinstance(error.__cause__, ConnectionLost)
    assert (error.attempts, source.runs) == (5, 5)
    assert len(statuses(events, "reconnecting")) == 4
    assert len(statuses(events, "failed")) == 1


@pytest.mark.parametrize("attempts", [0, -1, "5", 1.5, True])
def test_an_invalid_max_attempts_is_a_config_error(attempts: Any) -> None:
    table = {
        "venue": "acme",
        "symbols": ["BTC/USD"],
        "channels": ["trades"],
        "max_attempts": attempts,
    }

    with pytest.raises(ConfigError, match=r"feed\[0\]\.max_attempts: expected"):
        tapeloom.open({"feed": [table]}, registry=Registry({}))


def test_max_attempts_is_set_in_the_stack_or_in_code() -> None:
    stack = Stack(feeds=(spec(max_attempts=7),))

    assert stack.feeds[0].max_attempts == 7
    assert spec().max_attempts is None
    with pytest.raises(ConfigError, match="expected a whole number from 1 on"):
        spec(max_attempts=0)


# ------------------------------------------------------------------------ no retry


@pytest.mark.parametrize("where", ["dial", "codec", "source"])
async def test_a_programming_error_is_raised_unchanged_and_never_retried(
    registry: Registry, where: str
) -> None:
    runs: list[str] = []

    class FailingSource:
        backends = frozenset({"asyncio", "trio"})
        channels = frozenset({"trades"})
        resumes = False

        async def run(self, deliver: Any) -> None:
            runs.append("run")
            raise TypeError("a defect")

        def symbols_changed(self) -> None:
            pass

    class Plugin:
        @hookimpl
        def connect(self, feed: Feed) -> FailingSource:
            return FailingSource()

    registry.register(Plugin(), "well")
    wire = FakeWire(acking, refusals=[TypeError("a defect")] if where == "dial" else [])
    clock = VirtualClock()
    feed = FeedSpec("well" if where == "source" else "acme", ["BTC/USD"], ["trades"])
    with pytest.raises(TypeError, match="a defect"), anyio.fail_after(10):
        async with (
            clock.running(),
            tapeloom.open(feed, registry=registry, dial=wire.dial, clock=clock, seed=1) as stream,
        ):
            if where == "codec":
                stream.plans[0].codec.encode_subscribe = Defective().encode_subscribe
            async for _ in stream:
                pass

    assert len(wire.ends) == (where == "codec")
    assert len(runs) == (where == "source")
    assert wire.refusals == []


class Defective:
    def encode_subscribe(self, *_: Any) -> Any:
        raise TypeError("a defect")
