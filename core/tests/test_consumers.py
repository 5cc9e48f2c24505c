"""Consumers: iterators, batches, callbacks and sinks; slow, failing and abandoned ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import tapeloom
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom import Event, FeedSpec, Gap, QueueSpec, Registry, SinkSpec, Stack, Status, Trade
from tapeloom._stream.consumers import Consumer
from tapeloom._stream.queues import Queue
from tapeloom.errors import (
    BackendUnsupported,
    ConnectionFailed,
    FeedError,
    QueueOverflow,
    SubscriptionRefused,
)
from tapeloom.hooks import hookimpl
from tapeloom.plugin import Endpoint, Guarantee, Resume, SinkBatch, SinkRun
from tapeloom_testing import FakeWire, WireEnd

SPEC = FeedSpec("acme", ["BTC/USD"], ["trades"])


def frame(n: int, symbol: str = "BTCUSD") -> str:
    return json.dumps({"s": symbol, "t": n, "p": f"{n}.50", "q": "2", "i": n})


def sending(*reads: Sequence[int]) -> FakeWire:
    """Return a wire that acknowledges, then sends these trades, one read per list."""

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))
        for numbers in reads:
            end.push(*map(frame, numbers))
        await anyio.sleep_forever()

    return FakeWire(answer)


def sending_each(count: int) -> FakeWire:
    return sending(*([n] for n in range(count)))


def opened(
    registry: Registry, wire: FakeWire, *, sinks: Sequence[SinkSpec] = (), size: int = 10_000
) -> tapeloom.Stream:
    stack = Stack(feeds=(SPEC,), sinks=tuple(sinks), queue=QueueSpec(size=size))
    return tapeloom.open(stack, registry=registry, dial=wire.dial, seed=1)


async def wait_until(condition: Any) -> None:
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await anyio.sleep(0.001)


async def read_until(consumer: Any, last: int) -> list[Any]:
    out: list[Any] = []
    with anyio.fail_after(10):
        async for event in consumer:
            out.append(event)
            if isinstance(event, Trade) and event.id == last:
                break
    return out


# ---------------------------------------------------------------------------------------- iterating


async def test_of_delivers_only_the_types_asked_for(registry: Registry) -> None:
    async with opened(registry, sending_each(5)) as stream:
        statuses = stream.of(Status)
        both = stream.of(Trade, Status)
        trades = await read_until(stream.of(Trade), 4)
        mixed = await read_until(both, 4)
        status = await anext(statuses)

    assert [t.id for t in trades] == [0, 1, 2, 3, 4]
    assert {type(event) for event in mixed} == {Trade, Status}
    assert status.state == "connected"


async def test_without_a_size_a_batch_holds_the_events_that_arrived_together(
    registry: Registry,
) -> None:
    wire = sending([0, 1, 2], [3], [4, 5])
    async with opened(registry, wire) as stream:
        batches = stream.batches(Trade)
        got = [[t.id for t in await anext(batches)] for _ in range(3)]

    assert got == [[0, 1, 2], [3], [4, 5]]


async def test_a_batch_is_delivered_within_seconds_after_its_first_event(
    registry: Registry,
) -> None:
    async with opened(registry, sending([0, 1, 2])) as stream:
        with anyio.fail_after(5):
            batch = await anext(stream.batches(Trade, size=1000, within=0.05))

    assert [t.id for t in batch] == [0, 1, 2]


@pytest.mark.parametrize("size", [0, -1])
async def test_a_batch_size_below_one_is_a_value_error(registry: Registry, size: int) -> None:
    async with opened(registry, sending_each(1)) as stream:
        with pytest.raises(ValueError, match="at least 1"):
            stream.batches(Trade, size=size)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 10))
def test_batches_of_a_size_lose_and_repeat_no_event(lengths: list[int], size: int) -> None:
    queue = Queue(QueueSpec(size=10_000))
    number = 0
    for length in lengths:
        queue.put_nowait([Status("acme", "", n, n, "x") for n in range(number, number + length)])
        number += length
    queue.close()

    async def collect() -> list[list[int]]:
        return [[e.ts for e in batch] async for batch in Consumer[Event](queue).batches(size)]

    got = anyio.run(collect)

    assert [n for batch in got for n in batch] == list(range(number))
    assert all(len(batch) == size for batch in got[:-1])
    assert all(0 < len(batch) <= size for batch in got)


async def test_events_pushed_back_are_delivered_again_before_the_others(registry: Registry) -> None:
    async with opened(registry, sending([0, 1, 2, 3], [4])) as stream:
        consumer = stream.of(Trade)
        first = await anext(consumer)
        second = await anext(consumer)
        consumer.push_back([first, second])
        trades = await read_until(consumer, 4)

    assert [t.id for t in trades] == [0, 1, 2, 3, 4]


async def test_batch_returns_the_rest_of_the_batch_being_iterated(registry: Registry) -> None:
    async with opened(registry, sending([0, 1, 2], [3])) as stream:
        consumer = stream.of(Trade)
        await anext(consumer)
        rest = await consumer.batch()
        more = await consumer.batch()

    assert [[t.id for t in batch] for batch in (rest, more)] == [[1, 2], [3]]


async def test_a_cancelled_batch_loses_no_event(registry: Registry) -> None:
    async with opened(registry, sending([0, 1])) as stream:
        consumer = stream.of(Trade)
        with anyio.move_on_after(0.05):
            await anext(consumer.batches(size=10))
        batch = await consumer.batch()

    assert [t.id for t in batch] == [0, 1]


async def test_a_partial_batch_is_delivered_before_the_error_that_ended_the_stream(
    registry: Registry,
) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        request_id = json.loads(await end.take())["id"]
        end.push(frame(1), frame(2), json.dumps({"error": "delisted", "id": request_id}))
        await anyio.sleep_forever()

    wire = FakeWire(answer)
    got: list[int] = []
    caught: list[Exception] = []
    async with opened(registry, wire) as stream:
        with anyio.fail_after(10):
            try:
                async for batch in stream.batches(Trade, size=10):
                    got += [t.id for t in batch]
            except FeedError as error:
                caught.append(error)

    assert got == [1, 2]
    assert [type(error) for error in caught] == [SubscriptionRefused]


async def test_the_error_is_raised_after_all_events_before_it(registry: Registry) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        request_id = json.loads(await end.take())["id"]
        for n in range(50):
            end.push(frame(n))
        end.push(json.dumps({"error": "delisted", "id": request_id}))
        await anyio.sleep_forever()

    wire = FakeWire(answer)
    async with opened(registry, wire) as stream:
        late, consumer = stream.of(Trade, Status), stream.of(Trade)
        got: list[int] = []
        with pytest.raises(SubscriptionRefused, match="delisted"), anyio.fail_after(10):
            async for trade in consumer:
                got.append(trade.id)  # type: ignore[arg-type]  # noqa: PERF401
        with pytest.raises(SubscriptionRefused, match="delisted"):
            await stream.run()
        late_events = [event async for event in _until_error(late)]
        error = stream.error

    assert got == list(range(50))
    assert isinstance(error, SubscriptionRefused)
    assert [e.state for e in late_events if isinstance(e, Status)][-1] == "failed"
    assert len([e for e in late_events if isinstance(e, Trade)]) == 50


async def _until_error(consumer: Any) -> Any:
    while True:
        try:
            yield await anext(consumer)
        except FeedError:
            return


# ------------------------------------------------------------------------------------ slow and gone


async def test_two_consumers_at_different_speed_both_get_everything(registry: Registry) -> None:
    got: dict[str, list[int]] = {"fast": [], "slow": []}

    async def read(name: str, consumer: Any, pause: int) -> None:
        async for trade in consumer:
            got[name].append(trade.id)
            for _ in range(pause):
                await anyio.lowlevel.checkpoint()
            if trade.id == 199:
                return

    async with opened(registry, sending_each(200), size=10) as stream:
        fast, slow = stream.of(Trade), stream.of(Trade)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read, "fast", fast, 0)
                tasks.start_soon(read, "slow", slow, 9)

    assert got["fast"] == got["slow"] == list(range(200))


async def test_closing_a_consumer_discards_its_queue(registry: Registry) -> None:
    async with opened(registry, sending_each(20), size=5) as stream:
        with stream.of(Trade) as consumer:
            await anext(consumer)
        rest = [trade async for trade in consumer]
        others = await read_until(stream.of(Trade), 19)

    assert rest == []
    assert others[-1].id == 19


async def test_an_abandoned_consumer_stops_blocking_the_feed(registry: Registry) -> None:
    wire = sending_each(300)
    async with opened(registry, wire, size=5) as stream:
        consumer = stream.of(Trade)
        other = stream.consume(Trade, policy="drop_oldest")
        queue = consumer.queue
        await wait_until(lambda: queue.count == 5)
        del consumer
        got = await read_until(other, 299)

    assert got[-1].id == 299


async def test_drop_oldest_reports_to_a_slow_consumer_what_it_missed(registry: Registry) -> None:
    async with opened(registry, sending_each(200)) as stream:
        slow = stream.consume(Trade, size=10, policy="drop_oldest")
        await read_until(stream.of(Trade), 199)
        events = await read_until(slow, 199)
    (gap,) = [event for event in events if isinstance(event, Gap)]
    trades = [event.id for event in events if isinstance(event, Trade)]

    assert events[0] is gap
    assert (gap.cause, gap.missing, gap.symbol, gap.channel) == (
        "overflow",
        190,
        "BTC/USD",
        "trades",
    )
    assert trades == list(range(190, 200))


async def test_conflate_keeps_the_latest_for_a_slow_consumer(registry: Registry) -> None:
    async with opened(registry, sending_each(200)) as stream:
        slow = stream.consume(Trade, size=10, policy="conflate")
        await read_until(stream.of(Trade), 199)
        events = await read_until(slow, 199)
    trades = [event.id for event in events if isinstance(event, Trade)]
    missing = sum(event.missing for event in events if isinstance(event, Gap))

    assert trades[-1] == 199
    assert len(trades) <= 10
    assert missing + len(trades) == 200


async def test_error_ends_the_slow_consumer_and_no_other(registry: Registry) -> None:
    async with opened(registry, sending_each(200)) as stream:
        slow = stream.consume(Trade, size=10, policy="error", name="strategy")
        fast = await read_until(stream.of(Trade), 199)
        got = []
        with pytest.raises(QueueOverflow, match="'strategy'"):
            async for trade in slow:
                got.append(trade.id)  # noqa: PERF401

    assert len(fast) == 200
    assert got == list(range(10))
    assert stream.error is None


async def test_a_consumer_attached_late_gets_only_later_events(registry: Registry) -> None:
    wire = sending_each(3)
    async with opened(registry, wire) as stream:
        await read_until(stream.of(Trade), 2)
        late = stream.of(Trade)
        wire.ends[0].push(frame(3))
        got = await read_until(late, 3)

    assert [t.id for t in got] == [3]


async def test_a_consumer_attached_after_the_end_ends_at_once(registry: Registry) -> None:
    async with opened(registry, sending_each(1)) as stream:
        async for event in stream:
            if isinstance(event, Trade):
                stream.stop()
        with anyio.fail_after(5):
            late = [event async for event in stream.of(Trade)]

    assert late == []


async def test_a_large_read_is_delivered_in_parts_between_which_consumers_run(
    registry: Registry,
) -> None:
    """This bounds memory: consumers release events before more are made."""
    got: list[int] = []
    most = 0
    async with opened(registry, sending(range(3000), range(3000, 3010))) as stream:
        trades = stream.consume(Trade)
        with anyio.fail_after(10):
            async for batch in trades.batches():
                got += [trade.id for trade in batch]  # type: ignore[misc]
                most = max(most, len(batch) + trades.queue.count)
                if got[-1] == 3009:
                    break

    assert got == list(range(3010))
    assert most <= 512  # trio runs tasks in random order


async def test_stopping_during_a_large_read_loses_no_event(registry: Registry) -> None:
    got: list[int] = []
    async with opened(registry, sending(range(3000))) as stream:
        stream.on(Trade)(lambda trade: (got.append(trade.id), stream.stop()))
        with anyio.fail_after(10):
            await stream.run()

    assert got == list(range(3000))


# ---------------------------------------------------------------------------------- callbacks, run


async def test_plain_and_async_callbacks_get_every_event_in_order(registry: Registry) -> None:
    plain: list[int] = []
    waited: list[int] = []
    async with opened(registry, sending_each(50), size=5) as stream:

        @stream.on(Trade)
        def quick(trade: Trade) -> None:
            plain.append(trade.id)  # type: ignore[arg-type]

        @stream.on(Trade)
        async def slow(trade: Trade) -> None:
            await anyio.lowlevel.checkpoint()
            waited.append(trade.id)  # type: ignore[arg-type]
            if trade.id == 49:
                stream.stop()

        with anyio.fail_after(10):
            await stream.run()

    assert plain == waited == list(range(50))


async def test_an_observer_is_called_with_each_batch_until_it_raises(registry: Registry) -> None:
    batches: list[list[Any]] = []
    failed: list[list[Any]] = []

    def failing(events: list[Any]) -> None:
        failed.append(events)
        raise ValueError("no more")

    async with opened(registry, sending(range(10), range(10, 30))) as stream:
        stream.observe(batches.append)
        stream.observe(failing, "failing")
        trades = stream.of(Trade)
        with anyio.fail_after(10):
            async for trade in trades:
                if trade.id == 29:
                    break
        assert {queue.name: queue.waiting for queue in stream.state().queues}["observer"] == 0

    assert [event.id for batch in batches for event in batch if type(event) is Trade] == [
        *range(30)
    ]
    assert len(failed) == 1


async def test_a_plain_callback_is_called_before_waiting_consumers_run(registry: Registry) -> None:
    """Even if a consumer that attached earlier has been woken, but has not run yet."""
    log: list[tuple[str, Any]] = []
    async with opened(registry, sending_each(20)) as stream:
        trades = stream.of(Trade)
        stream.on(Trade)(lambda trade: log.append(("called", trade.id)))
        with anyio.fail_after(10):
            async for trade in trades:
                log.append(("taken", trade.id))
                if trade.id == 19:
                    break

    for n in range(20):
        assert log.index(("called", n)) < log.index(("taken", n))
    assert [n for action, n in log if action == "called"] == list(range(20))


async def test_a_plain_callback_that_returns_an_awaitable_is_awaited_each_time(
    registry: Registry,
) -> None:
    begun: list[int] = []
    done: list[int] = []

    async def work(number: int) -> None:
        begun.append(number)
        await anyio.lowlevel.checkpoint()
        done.append(number)
        if number % 10 == 3:
            raise ValueError(f"{number} is rejected")
        if number == 49:
            stream.stop()

    async with opened(registry, sending(range(20), range(20, 50)), size=7) as stream:
        stream.on(Trade)(lambda trade: work(trade.id) if trade.id > 2 else None)
        with anyio.fail_after(10):
            await stream.run()

    assert begun == done == list(range(3, 50))
    assert stream.counters["callback_errors"] == 5


async def test_a_plain_callback_that_raises_gets_the_next_event(registry: Registry) -> None:
    got: list[int] = []
    async with opened(registry, sending(range(10))) as stream:

        @stream.on(Trade)
        def failing(trade: Trade) -> None:
            got.append(trade.id)  # type: ignore[arg-type]
            if trade.id == 9:
                stream.stop()
            raise ValueError(f"{trade.id} is rejected")

        with anyio.fail_after(10):
            await stream.run()

    assert got == list(range(10))
    assert stream.counters["callback_errors"] == 10


async def test_leaving_waits_until_callbacks_have_emptied_their_queues(registry: Registry) -> None:
    got: list[int] = []
    async with opened(registry, sending_each(30)) as stream:

        @stream.on(Trade)
        async def slow(trade: Trade) -> None:
            await anyio.sleep(0.002)
            got.append(trade.id)  # type: ignore[arg-type]

        await read_until(stream.of(Trade), 29)
        before = len(got)

    assert before < 30
    assert got == list(range(30))


async def test_leaving_by_an_exception_does_not_wait_for_callbacks(registry: Registry) -> None:
    with anyio.fail_after(3), pytest.raises(KeyError):
        async with opened(registry, sending_each(30)) as stream:

            @stream.on(Trade)
            async def stuck(trade: Trade) -> None:
                await anyio.sleep_forever()

            await read_until(stream.of(Trade), 29)
            raise KeyError("mine")


async def test_run_ends_when_the_stream_is_stopped(registry: Registry) -> None:
    async with opened(registry, sending_each(1)) as stream:
        stream.on(Trade)(lambda trade: stream.stop())
        with anyio.fail_after(5):
            await stream.run()

    assert stream.error is None


async def test_run_raises_the_error_that_ended_the_stream(registry: Registry) -> None:
    failed = ConnectionFailed("acme", "for good")
    failed.retryable = False
    wire = sending_each(1)
    wire.refusals = [failed]
    with anyio.fail_after(5), pytest.raises(ConnectionFailed, match="for good"):
        async with opened(registry, wire) as stream:
            await stream.run()


async def test_stopping_before_a_consumer_attaches_ends_at_once(registry: Registry) -> None:
    wire = sending_each(1)
    async with opened(registry, wire) as stream:
        stream.stop()
        with anyio.fail_after(5):
            events = [event async for event in stream]

    assert [type(event) for event in events].count(Trade) == 0
    assert events[-1].state == "ended"  # type: ignore[union-attr]


# -------------------------------------------------------------------------------------------- sinks


@define
class Store:
    """A sink that keeps its events."""

    batches: list[list[Event]] = field(factory=list)
    backends: frozenset[str] = frozenset({"asyncio", "trio"})
    closed: int = 0
    guarantee: Guarantee = "at_most_once"

    async def open(self, run: SinkRun) -> Resume:
        return Resume()

    async def write(self, batch: SinkBatch) -> None:
        await anyio.lowlevel.checkpoint()
        self.batches.append(list(batch.events))

    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed += 1

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch]


@pytest.fixture
def store(registry: Registry) -> Store:
    store = Store()

    class Plugin:
        @hookimpl
        def sink(self, settings: Any) -> Store:
            return store

    registry.register(Plugin(), "store")
    return store


async def test_a_sink_gets_batches_of_the_types_asked_for_and_is_closed(
    registry: Registry, store: Store
) -> None:
    wire = sending([0, 1, 2], [3, 4])
    async with opened(registry, wire, sinks=[SinkSpec("store", types=("trade",))]) as stream:
        await read_until(stream.of(Trade), 4)

    assert [t.id for t in store.events] == [0, 1, 2, 3, 4]  # type: ignore[union-attr]
    assert store.closed == 1


async def test_a_sink_without_types_gets_everything_and_needs_no_consumer(
    registry: Registry, store: Store
) -> None:
    wire = sending_each(3)
    async with (
        opened(registry, wire, sinks=[SinkSpec("store")]) as stream,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(stream.run)
        await wait_until(lambda: len([e for e in store.events if isinstance(e, Trade)]) == 3)
        stream.stop()

    assert [e.state for e in store.events if isinstance(e, Status)] == [
        "connected",
        "subscribed",
        "ended",
    ]
    assert store.closed == 1


async def test_queued_events_are_written_before_a_sink_is_closed(
    registry: Registry, store: Store
) -> None:
    sinks = [SinkSpec("store", types=("trade",), queue=QueueSpec(size=1000))]
    async with opened(registry, sending_each(100), sinks=sinks) as stream:
        await read_until(stream.of(Trade), 99)

    assert [t.id for t in store.events] == list(range(100))  # type: ignore[union-attr]


async def test_an_overflow_of_a_sink_with_the_policy_error_is_counted(
    registry: Registry, store: Store
) -> None:
    sinks = [SinkSpec("store", types=("trade",), queue=QueueSpec(size=1, policy="error"))]
    async with opened(
        registry, sending(*([n, n + 1000] for n in range(30))), sinks=sinks
    ) as stream:
        await read_until(stream.of(Trade), 1029)
        await wait_until(lambda: store.closed)
        errors = stream.counters["overflows"]

    assert len(store.events) < 60
    assert errors == 1


async def test_a_sink_that_needs_another_event_loop_is_refused(
    registry: Registry, store: Store, anyio_backend: str
) -> None:
    store.backends = frozenset({"asyncio", "trio"} - {anyio_backend})
    with pytest.raises(BackendUnsupported, match="'store' needs"), anyio.fail_after(5):
        async with opened(registry, sending_each(1), sinks=[SinkSpec("store")]) as stream:
            await read_until(stream.of(Trade), 0)
