"""Consumers that sleep for ever: memory stays bounded, the count is right, and nobody else is hurt.

The venue is on a real socket and sends as fast as it can.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import anyio
import pytest
import tapeloom
from attrs import define, field
from structlog.testing import capture_logs
from tapeloom import Event, FeedSpec, Gap, QueueSpec, Registry, SinkSpec, Stack, Trade
from tapeloom._stream.queues import Queue
from tapeloom.errors import QueueOverflow
from tapeloom.events import QueuePolicy
from tapeloom.hooks import hookimpl
from tapeloom_testing import FakeClient, FakeVenue

#: How many trades are sent, how many in a write, and how many a queue may hold.
TRADES, WRITE, SIZE = 40_000, 100, 1_000
#: What may come in one batch: a batch is taken whole.
BATCH = 256
#: Bytes by which memory may grow while the last three quarters come. They take 20 times as much.
GROWTH = 1_500_000


def coin(n: int) -> str:
    return json.dumps({"s": "BTCUSD", "t": n, "p": "1.50", "q": "2", "i": n})


@define
class Exchange:
    """Acknowledges, sells so many coins one after another, and falls silent."""

    pad: int = 0  #: so many bytes more in each frame
    sent: int = 0
    at: dict[int, int] = field(factory=dict)  #: bytes of memory, by how many were sent

    async def __call__(self, client: FakeClient) -> None:
        await client.send(json.dumps({"ok": json.loads(await client.receive_text())["id"]}))
        while self.sent < TRADES:
            some = range(self.sent, self.sent + WRITE)
            await client.send(*(coin(n) + " " * self.pad for n in some))
            self.sent += WRITE
            if self.sent in (TRADES // 4, TRADES) and tracemalloc.is_tracing():
                self.at[self.sent] = tracemalloc.get_traced_memory()[0]
        await anyio.sleep_forever()


class Stuck:
    """A sink whose first write never ends."""

    backends = frozenset({"asyncio", "trio"})

    async def write(self, events: Sequence[Event]) -> None:
        await anyio.sleep_forever()

    async def aclose(self) -> None:
        pass


class Sinks:
    @hookimpl
    def sink(self, settings: Any) -> Stuck:
        return Stuck()


class LeftError(Exception):
    """The test is over: nobody is waited for."""


def stacked(venue: FakeVenue, policy: QueuePolicy) -> Stack:
    """A stack whose callbacks and sink have this policy."""
    spec = QueueSpec(size=SIZE, policy=policy)
    return Stack(
        feeds=(FeedSpec("acme", ["BTC/USD"], ["trades"]),),
        venues={"acme": {"url": venue.url()}},
        sinks=(SinkSpec("stuck", queue=spec),),
        queue=spec,
    )


async def follow(consumer: Any) -> int:
    """Take trades until the last one, each the one after the last; return how many there were."""
    count = 0
    async for event in consumer:
        assert isinstance(event, Trade)  # and no Gap
        assert event.id == count
        count += 1
        if count == TRADES:
            break
    return count


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["drop_oldest", "conflate", "error"])
async def test_consumers_that_sleep_for_ever_hurt_nobody_but_themselves(
    registry: Registry, policy: QueuePolicy
) -> None:
    """A consumer, a callback and a sink sleep, while another consumer takes everything."""
    registry.register(Sinks(), "stuck")
    exchange = Exchange()
    rest: list[Event] = []
    ended: QueueOverflow | None = None
    tracemalloc.start()
    try:
        async with FakeVenue(exchange).serve() as venue:
            with pytest.raises(LeftError), anyio.fail_after(90):
                async with tapeloom.open(stacked(venue, policy), registry=registry) as stream:
                    sleeper = stream.consume(Trade, name="sleeper")
                    busy = stream.consume(Trade, policy="block")

                    @stream.on(Trade)
                    async def stuck(trade: Trade) -> None:
                        await anyio.sleep_forever()

                    count = await follow(busy)
                    queue = sleeper.queue
                    waiting, dropped, taken = queue.count, queue.dropped, queue.taken
                    counted = stream.counters
                    try:
                        while queue.count or policy == "error":
                            rest += await sleeper.batch()
                    except QueueOverflow as error:
                        ended = error
                    raise LeftError
    finally:
        growth = exchange.at[TRADES] - exchange.at[TRADES // 4]
        tracemalloc.stop()
    delivered = [event.id for event in rest if isinstance(event, Trade)]
    missing = sum(event.missing or 0 for event in rest if isinstance(event, Gap))

    assert count == TRADES
    assert growth < GROWTH
    assert waiting <= SIZE + BATCH
    assert len(delivered) == waiting
    if policy == "error":
        assert ended is not None
        assert "'sleeper' fell" in str(ended)
        assert delivered == list(range(len(delivered)))  # what it had before, and nothing else
        assert taken == len(delivered)
    else:
        assert delivered[-1] == TRADES - 1
        assert len(delivered) + missing == len(delivered) + dropped == taken == TRADES
        # The three that slept have each lost nearly all.
        assert 2.8 * (TRADES - 2 * SIZE) < counted["dropped"] <= 3 * TRADES


async def test_a_consumer_that_blocks_makes_the_venue_wait_and_loses_nothing(
    registry: Registry,
) -> None:
    """By definition all others wait with it: a block policy is for those who must have everything."""
    exchange = Exchange(pad=500)  # more than what the sockets between can hold
    async with FakeVenue(exchange).serve() as venue:
        feed = FeedSpec("acme", ["BTC/USD"], ["trades"])
        stack = Stack(feeds=(feed,), venues={"acme": {"url": venue.url()}})
        with anyio.fail_after(60):
            async with (
                tapeloom.open(stack, registry=registry) as stream,
                anyio.create_task_group() as tasks,
            ):
                sleeper = stream.consume(Trade, size=SIZE, policy="block")
                busy = stream.consume(Trade)
                counts: list[int] = []

                async def following(consumer: Any) -> None:
                    counts.append(await follow(consumer))

                tasks.start_soon(following, busy)
                sent = -1
                while exchange.sent != sent or not sent:  # until nothing moves any more
                    sent = exchange.sent
                    await anyio.sleep(0.3)
                held, taken = sleeper.queue.count, busy.queue.taken

                assert 0 < sent < TRADES
                assert SIZE - BATCH < held <= SIZE + BATCH
                assert taken <= held + BATCH  # the other one waits with it

                tasks.start_soon(following, sleeper)
    assert counts == [TRADES, TRADES]
    assert sleeper.queue.dropped == busy.queue.dropped == 0


async def test_a_lost_gap_is_part_of_what_a_consumer_is_told_to_have_missed() -> None:
    """It had told of a hole from 100 to 200; the consumer that lost it must not take that for whole."""
    queue = Queue(QueueSpec(size=2, policy="drop_oldest"))

    def trade(ts: int) -> Trade:
        return Trade("acme", "BTC/USD", ts, ts, Decimal(1), Decimal(1), "buy", ts, "trades")

    queue.offer([trade(100)])
    assert queue.get_nowait() == [trade(100)]
    queue.offer([Gap("acme", "BTC/USD", 200, 200, 100, 200, "disconnect", 7, channel="trades")])
    queue.offer([trade(200), trade(201)])
    gap, *rest = queue.get_nowait()

    assert isinstance(gap, Gap)
    assert (gap.cause, gap.since, gap.until) == ("overflow", 100, 200)
    assert rest == [trade(200), trade(201)]


async def test_leaving_waits_for_a_consumer_no_longer_than_the_deadline_and_counts_what_is_lost(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One callback sleeps for ever, another is slow, and has what was read before the deadline."""
    monkeypatch.setattr("tapeloom._stream.stream._DRAIN_WITHIN", 1.0)
    heard: list[Any] = []

    async def script(client: FakeClient) -> None:
        await client.send(json.dumps({"ok": json.loads(await client.receive_text())["id"]}))
        await client.send(*(coin(n) for n in range(50)))
        await anyio.sleep_forever()

    async with FakeVenue(script).serve() as venue:
        feed = FeedSpec("acme", ["BTC/USD"], ["trades"])
        stack = Stack(feeds=(feed,), venues={"acme": {"url": venue.url()}})
        with anyio.fail_after(10), capture_logs() as logs:
            async with tapeloom.open(stack, registry=registry) as stream:

                @stream.on(Trade)
                async def stuck(trade: Trade) -> None:
                    await anyio.sleep_forever()

                @stream.on(Trade)
                async def slow(trade: Trade) -> None:
                    await anyio.sleep(0.002)
                    heard.append(trade.id)

                async for trade in stream.of(Trade):
                    if trade.id == 49:
                        break
    told = [entry for entry in logs if entry["event"] == "drain_incomplete"]

    assert heard == list(range(50))
    assert len(told) == 1
    assert told[0]["seconds"] == 1.0
