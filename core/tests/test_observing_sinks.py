"""Sinks that observe: they are called while a batch is delivered, and nothing waits for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest
import tapeloom
from structlog.testing import capture_logs
from tapeloom import Event, FeedSpec, QueueSpec, Registry, SinkSpec, Stack, Trade
from tapeloom.errors import ConfigError, SinkUnavailable
from tapeloom.hooks import hookimpl
from tapeloom.plugin import Endpoint, Resume, SinkRun
from tapeloom_testing import FakeWire, WireEnd

START = 1_700_000_000_000_000_000
pytestmark = pytest.mark.anyio


class Screen:
    """Keeps the batches that it is called with."""

    guarantee = "at_most_once"

    def __init__(
        self,
        failures: int = 0,
        look: Callable[[list[Event]], None] = lambda _: None,
        error: type[Exception] = SinkUnavailable,
    ) -> None:
        self.batches: list[list[Event]] = []
        self.opened = self.closed = 0
        self._failures = failures
        self._look = look
        self._error = error

    async def open(self, run: SinkRun) -> Resume:
        self.opened += 1
        if self.opened <= self._failures:
            raise self._error("the port is in use.")
        return Resume()

    def observe(self, events: list[Event]) -> None:
        self.batches.append(events)
        self._look(events)

    async def close(self) -> None:
        self.closed += 1

    @property
    def trades(self) -> list[Any]:
        return [event.id for batch in self.batches for event in batch if isinstance(event, Trade)]


class Plugin:
    def __init__(self, screen: Screen) -> None:
        self.screen = screen

    @hookimpl
    def sink(self, settings: Any) -> Screen:
        return self.screen


def sending(*reads: Sequence[tuple[str, int]]) -> FakeWire:
    """Return a wire that acknowledges two subscribes, then sends trades, one read per list."""

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))
        for read in reads:
            rows = [
                {"s": symbol, "t": START + n * 1_000_000_000, "p": "1.50", "q": "2", "i": n}
                for symbol, n in read
            ]
            end.push(*map(json.dumps, rows))
        await anyio.sleep_forever()

    return FakeWire(answer)


async def run(registry: Registry, screen: Screen, wire: FakeWire, last: int, **keys: Any) -> Any:
    """Run a stream with *screen* until the trade *last*; return the stream, and its trades."""
    registry.register(Plugin(screen), "screen")
    feed = FeedSpec("acme", ["BTC/USD", "ETH/USD"], ["trades"])
    stack = Stack(feeds=(feed,), sinks=(SinkSpec("screen", **keys),))
    received: list[list[Event]] = []
    with anyio.fail_after(20):
        async with tapeloom.open(stack, registry=registry, dial=wire.dial, seed=1) as stream:
            async for batch in stream.batches():
                received.append(batch)
                if any(type(event) is Trade and event.id == last for event in batch):
                    break
            state = {queue.name: queue for queue in stream.state().queues}["screen"]
    return stream, received, state


READS = [[("BTCUSD", n), ("ETHUSD", n)] for n in range(10)]


async def test_it_is_called_with_the_very_batch_before_any_other_consumer_has_it(
    registry: Registry,
) -> None:
    screen = Screen()
    _, received, state = await run(registry, screen, sending(*READS), 9)

    assert screen.trades == [n for n in range(10) for _ in range(2)]
    assert [*map(id, screen.batches[: len(received)])] == [*map(id, received)]  # none is copied
    assert (state.waiting, state.dropped, state.is_sink) == (0, 0, True)
    assert state.received >= 20
    assert (screen.opened, screen.closed) == (1, 1)


async def test_it_receives_only_what_its_table_selects(registry: Registry) -> None:
    screen = Screen()
    await run(registry, screen, sending(*READS), 9, symbols=["ETH/USD"], types=["trade"])
    found = [event for batch in screen.batches for event in batch]

    assert {(type(event), event.symbol) for event in found} == {(Trade, "ETH/USD")}
    assert screen.trades == [*range(10)]


async def test_one_that_raises_is_disabled_and_the_stream_goes_on(registry: Registry) -> None:
    def look(events: list[Event]) -> None:
        if any(type(event) is Trade and event.id == 3 for event in events):
            raise RuntimeError("no paper")

    screen = Screen(look=look)
    with capture_logs() as logs:
        stream, received, _ = await run(registry, screen, sending(*READS), 9)

    assert screen.trades[-1] == 3
    assert received[-1][-1].id == 9  # type: ignore[union-attr]
    assert stream.counters["sink_errors"] == 1
    (log,) = [log for log in logs if log["event"] == "sink_disabled"]
    assert log["reason"] == "RuntimeError: no paper"
    assert screen.closed == 1


async def test_one_that_cannot_be_opened_at_the_start_is_opened_later(registry: Registry) -> None:
    screen = Screen(failures=2)
    reads = sending(*READS)
    registry.register(Plugin(screen), "screen")
    feed = FeedSpec("acme", ["BTC/USD", "ETH/USD"], ["trades"])
    stack = Stack(feeds=(feed,), sinks=(SinkSpec("screen"),))
    with anyio.fail_after(20):
        async with tapeloom.open(stack, registry=registry, dial=reads.dial, seed=1) as stream:
            stream.consume(Trade)
            assert stream.state().queues[-1].problem == "the port is in use."
            while stream.state().queues[-1].problem:  # noqa: ASYNC110 - there is no event
                await anyio.sleep(0.01)

    assert screen.opened == 3


async def test_one_whose_opening_has_a_defect_is_disabled_and_not_opened_for_ever(
    registry: Registry,
) -> None:
    screen = Screen(failures=1000, error=NameError)
    registry.register(Plugin(screen), "screen")
    feed = FeedSpec("acme", ["BTC/USD", "ETH/USD"], ["trades"])
    stack = Stack(feeds=(feed,), sinks=(SinkSpec("screen"),))
    dial = sending(*READS).dial
    with capture_logs() as logs, anyio.fail_after(20):
        async with tapeloom.open(stack, registry=registry, dial=dial, seed=1) as stream:
            stream.consume(Trade)
            while not any(log["event"] == "sink_disabled" for log in logs):  # noqa: ASYNC110 - as above
                await anyio.sleep(0.01)

    (log,) = [log for log in logs if log["event"] == "sink_disabled"]
    assert log["reason"] == "opening it raises NameError: the port is in use."
    assert screen.opened == 4


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("queue", QueueSpec(100, "block")), ("spool", 1_000_000), ("max_batch", 10),
        ("max_batch_delay", 0.0),
    ],
)  # fmt: skip
async def test_settings_of_a_queue_that_it_does_not_have_are_refused(
    registry: Registry, key: str, value: Any
) -> None:
    registry.register(Plugin(Screen()), "screen")
    feed = FeedSpec("acme", ["BTC/USD"], ["trades"])
    stack = Stack(feeds=(feed,), sinks=(SinkSpec("screen", **{key: value}),))
    with pytest.raises(ConfigError) as caught:
        tapeloom.open(stack, registry=registry)

    (mistake,) = caught.value.mistakes
    assert str(mistake) == (
        f"sink[0].{key}: the sink 'screen' is called with each batch and has no queue or spool."
        " Remove this key."
    )
