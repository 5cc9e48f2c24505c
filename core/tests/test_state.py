"""What a stream says of itself while it runs, to its own thread and to another one."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence

import anyio
import anyio.lowlevel
import pytest
import tapeloom
from tapeloom import Event, FeedSpec, Registry, SinkSpec, Stack
from tapeloom.errors import SinkUnavailable
from tapeloom.hooks import hookimpl
from tapeloom.plugin import (
    DELAY_BOUNDS,
    Clock,
    Endpoint,
    Feed,
    Guarantee,
    Resume,
    SinkBatch,
    SinkRun,
    Stage,
    StreamState,
    Subscription,
)
from tapeloom_testing import FakeWire, VirtualClock, WireEnd

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


class Passing:
    """A stage that does nothing."""

    @hookimpl
    def validate(self, feed: Feed) -> Stage:
        return lambda events: events


class Flood:
    """A venue that sends *reads* reads of trades, and begins when it is told to."""

    def __init__(self, reads: int, each: int = 3) -> None:
        self.go = anyio.Event()
        self.wire = FakeWire(self._answer)
        self._reads, self._each = reads, each

    async def _answer(self, end: WireEnd, endpoint: Endpoint) -> None:
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))
        await self.go.wait()
        for read in range(self._reads):
            end.push(*map(self._row, range(read * self._each, (read + 1) * self._each)))
            await anyio.lowlevel.checkpoint()
        await anyio.sleep_forever()

    @staticmethod
    def _row(n: int) -> str:
        return json.dumps({"s": "BTCUSD", "t": START + n * SECOND, "p": "1", "q": "2", "i": n})


class Unreliable:
    """A sink whose store is down while `is_down`."""

    guarantee: Guarantee = "at_most_once"
    is_down = True

    def __init__(self) -> None:
        self.has_stored = anyio.Event()

    @hookimpl
    def sink(self) -> Unreliable:
        return self

    async def open(self, run: SinkRun) -> Resume:
        if self.is_down:
            raise SinkUnavailable("the server does not answer.")
        return Resume()

    async def write(self, batch: SinkBatch) -> None:
        self.has_stored.set()

    async def close(self) -> None:
        pass


def opened(
    registry: Registry,
    flood: Flood,
    stages: Sequence[str] = (),
    clock: Clock | None = None,
    sinks: Sequence[SinkSpec] = (),
) -> tapeloom.Stream:
    feed = FeedSpec("acme", ["BTC/USD"], ["trades"], stages=stages)
    stack = Stack(feeds=(feed,), sinks=tuple(sinks))
    return tapeloom.open(stack, registry=registry, clock=clock, dial=flood.wire.dial, seed=1)


async def received(consumer: tapeloom.Consumer[Event], count: int) -> None:
    while count > 0:
        count -= len(await consumer.batch())


async def test_a_stream_says_what_is_connected_what_waits_and_how_long_its_stages_take(
    registry: Registry,
) -> None:
    registry.register(Passing(), "passing")
    flood = Flood(reads=2)
    with anyio.fail_after(10):
        async with opened(registry, flood, ["passing"]) as stream:
            before = stream.state()
            trades = stream.consume(tapeloom.Trade, name="strategy")
            flood.go.set()
            await received(trades, 3)
            await anyio.wait_all_tasks_blocked()
            state = stream.state()
            stream.stop()
    (feed,), (queue,) = state.feeds, state.queues
    (connection,) = feed.connections
    subscription = Subscription("BTC/USD", "trades")

    assert before.feeds[0].connections == ()
    assert (feed.name, feed.venue, feed.symbols, feed.error) == ("acme", "acme", ("BTC/USD",), "")
    assert connection.wanted == (subscription,)
    assert connection.live == feed.live == {subscription}
    assert connection.connected_seconds is not None
    assert connection.connected_seconds >= 0
    assert (queue.name, queue.received, queue.waiting) == ("strategy", 6, 3)
    assert feed.stages["passing"].events >= 6
    assert feed.stages["passing"].seconds > 0
    assert state.counters["frames"] == 7


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_another_thread_may_ask_at_any_time_while_events_arrive(
    registry: Registry, anyio_backend: str
) -> None:
    flood = Flood(reads=2000)
    states: list[StreamState] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def ask(stream: tapeloom.Stream) -> None:
        try:
            while not done.is_set():
                states.append(stream.state())
        except BaseException as error:
            errors.append(error)

    with anyio.fail_after(30):
        async with opened(registry, flood) as stream:
            trades = stream.consume(tapeloom.Trade)
            thread = threading.Thread(target=ask, args=[stream])
            thread.start()
            flood.go.set()
            await received(trades, 6000)
            done.set()
            thread.join()
            stream.stop()

    assert errors == []
    assert len(states) > 10
    assert states[-1].counters["frames"] >= states[0].counters["frames"]


async def test_the_delays_of_a_queue_are_counted_from_the_read_to_the_consumer(
    registry: Registry,
) -> None:
    flood, clock = Flood(reads=3), VirtualClock()
    with anyio.fail_after(10):
        async with opened(registry, flood, clock=clock) as stream:
            trades = stream.consume(tapeloom.Trade)
            stream.state()
            flood.go.set()
            await received(trades, 3)
            await anyio.wait_all_tasks_blocked()
            clock.advance(0.003)
            await received(trades, 6)
            (queue,) = stream.state().queues
            stream.stop()
    delays = dict(zip((*DELAY_BOUNDS, None), queue.delays, strict=True))

    assert (delays[100_000], delays[5_000_000], sum(queue.delays)) == (3, 6, 9)
    assert queue.delay_sum == 6 * 3_000_000


async def test_the_queue_of_a_sink_says_why_its_store_cannot_be_written(registry: Registry) -> None:
    sink, flood = Unreliable(), Flood(reads=3)
    registry.register(sink, "unreliable")
    specs = [SinkSpec("unreliable", max_batch_delay=0.0)]
    with anyio.fail_after(20):
        async with opened(registry, flood, sinks=specs) as stream:
            before = stream.state().queues[0].problem
            sink.is_down = False
            flood.go.set()
            await received(stream.consume(tapeloom.Trade), 9)
            await sink.has_stored.wait()
            await anyio.wait_all_tasks_blocked()
            after = stream.state().queues[-1]
            stream.stop()

    assert before == "the server does not answer."
    assert (after.name, after.is_sink, after.problem) == ("unreliable", True, "")
