"""Consumers that never read: memory stays bounded, dropped events are counted, others are unaffected.

The venue is on a real socket and sends as fast as possible.
"""

from __future__ import annotations

import json
import tracemalloc
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
from tapeloom.plugin import Resume, SinkBatch, SinkRun
from tapeloom_testing import FakeClient, FakeVenue

#: The number of trades sent, trades per write, and the size of the queues.
TRADES, WRITE, SIZE = 40_000, 100, 1_000
#: Events in a batch, at most: a queue may exceed its size by one batch.
BATCH = 256
#: Bytes by which memory may grow during the last three quarters of the trades, which have 20 times as many.
GROWTH = 1_500_000


def trade_frame(n: int) -> str:
    return json.dumps({"s": "BTCUSD", "t": n, "p": "1.50", "q": "2", "i": n})


@define
class Exchange:
    """Acknowledges, sends `TRADES` trades, and then nothing more."""

    pad: int = 0  #: extra bytes per frame
    sent: int = 0
    at: dict[int, int] = field(factory=dict)  #: bytes of memory, by the number of trades sent

    async def __call__(self, client: FakeClient) -> None:
        await client.send(json.dumps({"ok": json.loads(await client.receive_text())["id"]}))
        while self.sent < TRADES:
            ids = range(self.sent, self.sent + WRITE)
            await client.send(*(trade_frame(n) + " " * self.pad for n in ids))
            self.sent += WRITE
            if self.sent in (TRADES // 4, TRADES) and tracemalloc.is_tracing():
                self.at[self.sent] = tracemalloc.get_traced_memory()[0]
        await anyio.sleep_forever()


class Stuck:
    """A sink whose first write never ends."""

    backends = frozenset({"asyncio", "trio"})

    guarantee = "at_most_once"

    async def open(self, run: SinkRun) -> Resume:
        return Resume()

    async def write(self, batch: SinkBatch) -> None:
        await anyio.sleep_forever()

    async def close(self) -> None:
        pass


class Sinks:
    @hookimpl
    def sink(self, settings: Any) -> Stuck:
        return Stuck()


class LeftError(Exception):
    """Leaves the stream without draining."""


def stacked(venue: FakeVenue, policy: QueuePolicy) -> Stack:
    """Return a stack whose callbacks and sink have this policy."""
    spec = QueueSpec(size=SIZE, policy=policy)
    return Stack(
        feeds=(FeedSpec("acme", ["BTC/USD"], ["trades"]),),
        venues={"acme": {"url": venue.url()}},
        sinks=(SinkSpec("stuck", queue=spec),),
        queue=spec,
    )


async def read_all(consumer: Any) -> int:
    """Read all trades, check that none is missing, and return their number."""
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
async def test_consumers_that_never_read_do_not_affect_the_others(
    registry: Registry, policy: QueuePolicy
) -> None:
    """A consumer, a callback and a sink never read; another consumer gets every trade."""
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

                    count = await read_all(busy)
                    queue = sleeper.queue
                    waiting, dropped, received = queue.count, queue.dropped, queue.received
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
        assert delivered == list(
            range(len(delivered))
        )  # only the events queued before the overflow
        assert received == len(delivered)
    else:
        assert delivered[-1] == TRADES - 1
        assert len(delivered) + missing == len(delivered) + dropped == received == TRADES
        # Each of the three has lost nearly all trades.
        assert 2.8 * (TRADES - 2 * SIZE) < counted["dropped"] <= 3 * TRADES


async def test_the_policy_block_stops_reading_and_loses_no_event(registry: Registry) -> None:
    """The policy makes all consumers wait: it is for those that need every event."""
    exchange = Exchange(pad=500)  # more than the socket buffers hold
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
                    counts.append(await read_all(consumer))

                tasks.start_soon(following, busy)
                sent = -1
                while exchange.sent != sent or not sent:  # until sending has stopped
                    sent = exchange.sent
                    await anyio.sleep(0.3)
                held, received = sleeper.queue.count, busy.queue.received

                assert 0 < sent < TRADES
                assert SIZE - BATCH < held <= SIZE + BATCH
                assert received <= held + BATCH  # the other consumer waits too

                tasks.start_soon(following, sleeper)
    assert counts == [TRADES, TRADES]
    assert sleeper.queue.dropped == busy.queue.dropped == 0


async def test_a_dropped_gap_extends_the_overflow_gap() -> None:
    """The dropped Gap was from 100 to 200: the consumer must not take that time for complete."""
    queue = Queue(QueueSpec(size=2, policy="drop_oldest"))

    def trade(ts: int) -> Trade:
        return Trade("acme", "BTC/USD", ts, ts, Decimal(1), Decimal(1), "buy", ts, "trades")

    queue.put_nowait([trade(100)])
    assert queue.get_nowait() == [trade(100)]
    queue.put_nowait(
        [Gap("acme", "BTC/USD", 200, 200, 100, 200, "disconnect", 7, channel="trades")]
    )
    queue.put_nowait([trade(200), trade(201)])
    gap, *rest = queue.get_nowait()

    assert isinstance(gap, Gap)
    assert (gap.cause, gap.since, gap.until) == ("overflow", 100, 200)
    assert rest == [trade(200), trade(201)]


async def test_leaving_drains_until_the_deadline_and_logs_the_lost_events(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One callback never returns; another is slow, but processes every event before the deadline."""
    monkeypatch.setattr("tapeloom._stream.stream._DRAIN_SECONDS", 1.0)
    processed: list[Any] = []

    async def script(client: FakeClient) -> None:
        await client.send(json.dumps({"ok": json.loads(await client.receive_text())["id"]}))
        await client.send(*(trade_frame(n) for n in range(50)))
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
                    processed.append(trade.id)

                async for trade in stream.of(Trade):
                    if trade.id == 49:
                        break
    entries = [entry for entry in logs if entry["event"] == "drain_incomplete"]

    assert processed == list(range(50))
    assert len(entries) == 1
    assert entries[0]["seconds"] == 1.0
