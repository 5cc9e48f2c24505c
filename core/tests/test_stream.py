"""A whole stream over a fake connection: subscribing, delivering, reconnecting, stopping."""

from __future__ import annotations

import json
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import tapeloom
from tapeloom import Event, FeedSpec, Gap, Registry, Reject, Stack, Status, Stream, Trade
from tapeloom.errors import ConnectionFailed, StageFailed, SubscriptionRefused
from tapeloom.plugin import Endpoint
from tapeloom_testing import FakeWire, VirtualClock, WireEnd


def frame(n: int, symbol: str = "BTCUSD") -> str:
    return json.dumps({"s": symbol, "t": n, "p": f"{n}.50", "q": "2", "i": n})


async def wait_until(condition: Any) -> None:
    with anyio.fail_after(5):
        while not condition():
            await anyio.lowlevel.checkpoint()


def acknowledge(*frames: str):
    """Acknowledge every request; send *frames* after the first."""

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        waiting = frames
        while True:
            end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))
            for text in waiting:
                end.push(text)
            waiting = ()

    return answer


SPEC = FeedSpec("acme", ["BTC/USD"], ["trades"])


def opened(
    registry: Registry,
    wire: FakeWire,
    spec: FeedSpec = SPEC,
    clock: VirtualClock | None = None,
    **settings: Any,
) -> Stream:
    stack = Stack(feeds=(spec,), venues={"acme": settings})
    return tapeloom.open(stack, registry=registry, dial=wire.dial, clock=clock, seed=1)


async def read_events(consumer: Any, count: int, kind: type[Event] = Trade) -> list[Any]:
    out: list[Any] = []
    with anyio.fail_after(5):
        async for event in consumer:
            if isinstance(event, kind):
                out.append(event)
                if len(out) == count:
                    break
    return out


async def test_events_arrive_once_and_in_order(registry: Registry) -> None:
    wire = FakeWire(acknowledge(*(frame(n) for n in range(50))))
    async with opened(registry, wire) as stream:
        trades = await read_events(stream.of(Trade), 50)

    assert [t.id for t in trades] == list(range(50))
    assert str(trades[3].price) == "3.50"
    assert {t.symbol for t in trades} == {"BTC/USD"}


async def test_nothing_is_dialled_before_a_consumer_attaches(registry: Registry) -> None:
    wire = FakeWire(acknowledge(frame(1)))
    async with opened(registry, wire) as stream:
        await anyio.wait_all_tasks_blocked()
        before = len(wire.ends)
        await read_events(stream.of(Trade), 1)

    assert before == 0
    assert len(wire.ends) == 1


async def test_every_consumer_gets_everything(registry: Registry) -> None:
    wire = FakeWire(acknowledge(*(frame(n) for n in range(20))))
    called: list[Event] = []
    async with opened(registry, wire) as stream:
        stream.on(Trade)(called.append)
        first, second = stream.of(Trade), stream.of(Trade)
        trades, same = await read_events(first, 20), await read_events(second, 20)
        await wait_until(lambda: len(called) == 20)

    assert trades == same == called


async def test_batches_have_the_size_asked_for(registry: Registry) -> None:
    wire = FakeWire(acknowledge(*(frame(n) for n in range(25))))
    sizes: list[int] = []
    ids: list[Any] = []
    async with opened(registry, wire) as stream:
        with anyio.fail_after(5):
            async for batch in stream.batches(Trade, size=10, within=0.5):
                sizes.append(len(batch))
                ids += [t.id for t in batch]
                if len(ids) == 25:
                    break

    assert ids == list(range(25))
    assert sizes == [10, 10, 5]


async def test_a_gap_comes_before_the_first_event_after_a_disconnect(registry: Registry) -> None:
    clock = VirtualClock()
    connections = iter([[frame(1), frame(2)], [frame(5)]])

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))
        frames = next(connections)
        end.push(*frames)
        if len(frames) == 2:
            await wait_until(lambda: not end._incoming)
            end.close(1006)
        await anyio.sleep_forever()

    wire = FakeWire(answer)
    events: list[Event] = []
    async with clock.running(), opened(registry, wire, clock=clock) as stream:
        with anyio.fail_after(5):
            async for event in stream:
                events.append(event)
                if isinstance(event, Trade) and event.id == 5:
                    break
    order = [
        e.id if isinstance(e, Trade) else e.cause for e in events if isinstance(e, Trade | Gap)
    ]
    gap = next(e for e in events if isinstance(e, Gap))
    states = [e.state for e in events if isinstance(e, Status)]

    assert order == [1, 2, "disconnect", 5]
    assert (gap.symbol, gap.channel, gap.since) == ("BTC/USD", "trades", 2)
    assert states == ["connected", "subscribed", "reconnecting", "connected", "subscribed"]


async def test_a_failed_dial_is_retried_until_it_succeeds(registry: Registry) -> None:
    clock = VirtualClock()
    wire = FakeWire(
        acknowledge(frame(1)), refusals=[ConnectionFailed("", "refused") for _ in range(8)]
    )
    async with clock.running(), opened(registry, wire, clock=clock) as stream:
        trades = await read_events(stream.of(Trade), 1)

    assert trades[0].id == 1
    assert wire.refusals == []


async def test_a_permanent_failure_ends_the_stream_with_its_error(registry: Registry) -> None:
    failed = ConnectionFailed("acme", "the certificate is not trusted")
    failed.retryable = False
    wire = FakeWire(acknowledge(), refusals=[failed])
    with pytest.raises(ConnectionFailed, match="certificate"):
        async with opened(registry, wire) as stream:
            async for _ in stream.of(Trade):
                pass


async def test_a_silent_connection_is_replaced(registry: Registry) -> None:
    clock = VirtualClock()

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))
        if len(wire.ends) == 2:
            end.push(frame(9))
        await anyio.sleep_forever()

    wire = FakeWire(answer)
    async with clock.running(), opened(registry, wire, clock=clock, silence=30.0) as stream:
        consumer = stream.consume()
        statuses = [s.detail for s in await read_events(consumer, 3, Status)]
        trades = await read_events(consumer, 1)

    assert "no byte was received for 3" in statuses[2]
    assert trades[0].id == 9
    assert len(wire.ends) == 2


async def test_a_connection_is_replaced_without_a_pause_at_its_maximum_age(
    registry: Registry,
) -> None:
    clock = VirtualClock()
    wire = FakeWire(acknowledge(frame(1)))
    async with (
        clock.running(),
        opened(registry, wire, clock=clock, max_age=3600.0, silence=1e6) as stream,
    ):
        await read_events(stream.of(Trade), 2)

    assert len(wire.ends) == 2
    assert 3600 <= clock.monotonic() < 3610


async def test_a_missing_acknowledgement_ends_the_connection(registry: Registry) -> None:
    clock = VirtualClock()

    async def silent(end: WireEnd, endpoint: Endpoint) -> None:
        await anyio.sleep_forever()

    wire = FakeWire(silent)
    async with clock.running(), opened(registry, wire, clock=clock) as stream:
        statuses = await read_events(stream.consume(), 2, Status)

    assert "no answer within 10 s" in statuses[1].detail


async def test_a_refused_subscription_is_reported_and_the_others_continue(
    registry: Registry,
) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        await end.take()
        await end.take()
        end.push('{"error": "no such symbol", "id": 2}', '{"ok": 1}', frame(1, "S0USD"))
        await anyio.sleep_forever()

    symbols = [f"S{n}/USD" for n in range(11)]
    wire = FakeWire(answer)
    async with opened(registry, wire, FeedSpec("acme", symbols, ["trades"])) as stream:
        events = []
        with anyio.fail_after(5):
            async for event in stream:
                events.append(event)
                if isinstance(event, Trade):
                    break
    refused = [e for e in events if isinstance(e, Status) and e.state == "refused"]

    assert [(e.symbol, e.channel, e.detail) for e in refused] == [
        ("S10/USD", "trades", "no such symbol")
    ]


async def test_the_stream_fails_if_every_subscription_is_refused(registry: Registry) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        await end.take()
        end.push('{"error": "no such symbol", "id": 1}')
        await anyio.sleep_forever()

    with pytest.raises(SubscriptionRefused, match="no such symbol"):
        async with opened(registry, FakeWire(answer)) as stream:
            async for _ in stream:
                pass


async def test_subscriptions_are_split_over_connections_and_rate_limited(
    registry: Registry,
) -> None:
    symbols = [f"S{n}/USD" for n in range(25)]
    wire = FakeWire(acknowledge())
    async with opened(
        registry, wire, FeedSpec("acme", symbols, ["trades"]), per_connection=10
    ) as stream:
        stream.consume()
        consumer = stream.consume()
        await read_events(consumer, 6, Status)
        requested = [a for end in wire.ends for t in end.sent for a in json.loads(t)["args"]]

    assert len(wire.ends) == 3
    assert sorted(requested) == sorted(f"S{n}USD@trades" for n in range(25))


async def test_symbols_are_added_and_dropped_while_running(registry: Registry) -> None:
    wire = FakeWire(acknowledge(frame(1)))
    async with opened(registry, wire) as stream:
        consumer = stream.of(Trade)
        await read_events(consumer, 1)
        await stream.add("ETH/USD")
        await wait_until(lambda: len(wire.ends[0].sent) == 2)
        wire.ends[0].push(frame(2, "ETHUSD"))
        trades = await read_events(consumer, 1)
        await stream.drop("BTC/USD")
        await wait_until(lambda: len(wire.ends[0].sent) == 3)

    assert trades[0].symbol == "ETH/USD"
    assert [json.loads(t)["op"] for t in wire.ends[0].sent[:3]] == ["sub", "sub", "unsub"]


async def test_an_unreadable_frame_becomes_a_reject_in_its_place(registry: Registry) -> None:
    wire = FakeWire(acknowledge(frame(1), "garbage", '{"s": "poison"}', frame(2)))
    async with opened(registry, wire, poisonous=True) as stream:
        events = []
        with anyio.fail_after(5):
            async for event in stream.of(Trade, Reject):
                events.append(event)
                if isinstance(event, Trade) and event.id == 2:
                    break

    assert [e.id if isinstance(e, Trade) else e.rule for e in events] == [
        1,
        "unreadable_frame",
        "parser_error",
        2,
    ]


async def test_a_message_that_nobody_asked_for_is_counted_and_no_reject(registry: Registry) -> None:
    wire = FakeWire(acknowledge(frame(1), '{"kind": "news", "text": "hello"}', frame(2)))
    async with opened(registry, wire) as stream:
        events = await read_events(stream.of(Trade, Reject), 2, Event)  # type: ignore[arg-type]
        counters = stream.counters

    assert [event.type for event in events] == ["trade", "trade"]
    assert (counters["unrequested"], counters["unreadable_frames"]) == (1, 0)


async def test_a_parser_error_loses_only_its_frame(registry: Registry) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        await end.take()
        end.push('{"ok": 1}', frame(1), '{"s": "poison"}', frame(2))
        await anyio.sleep_forever()

    async with opened(registry, FakeWire(answer), poisonous=True) as stream:
        trades = await read_events(stream.of(Trade), 2)

    assert [t.id for t in trades] == [1, 2]


async def test_a_stage_error_with_on_error_end_ends_the_feed(
    registry: Registry, marker: Any
) -> None:
    wire = FakeWire(acknowledge(frame(1)))
    spec = FeedSpec("acme", ["BTC/USD"], ["trades"], stages=("marker",))
    given = Stack(feeds=(spec,), stages={"marker": {"on_error": "end"}})
    with pytest.raises(StageFailed, match="'marker' raised RuntimeError: the stage broke"):
        async with tapeloom.open(given, registry=registry, dial=wire.dial) as stream:
            marker.stages[0].fail = True
            async for _ in stream.of(Trade):
                pass


async def test_stages_are_ticked_when_due_and_flushed_at_the_end(
    registry: Registry, marker: Any
) -> None:
    clock = VirtualClock()
    wire = FakeWire(acknowledge(frame(1)))
    spec = FeedSpec("acme", ["BTC/USD"], ["trades"], stages=("marker",))
    states = []
    async with clock.running(), opened(registry, wire, spec, clock=clock) as stream:
        marker.stages[0].due = clock.time_ns() + 2_000_000_000
        async for event in stream.of(Status):
            states.append(event.state)
            if event.state == "ticked":
                stream.stop()

    assert states[-3:] == ["ticked", "flushed", "ended"]
    assert "marked" in states


async def test_hooks_are_called_once_and_never_per_message(registry: Registry, acme: Any) -> None:
    wire = FakeWire(acknowledge(*(frame(n) for n in range(200))))
    async with opened(registry, wire) as stream:
        composed = list(acme.calls)
        await read_events(stream.of(Trade), 200)

    assert acme.calls == composed
    assert sorted(composed) == ["connect", "history", "parse", "subscribe"]


async def test_an_exception_of_the_body_is_raised_unwrapped(registry: Registry) -> None:
    with pytest.raises(ZeroDivisionError):
        async with opened(registry, FakeWire(acknowledge(frame(1)))) as stream:
            async for _ in stream.of(Trade):
                1 / 0  # noqa: B018


async def test_an_exception_in_a_callback_does_not_affect_other_consumers(
    registry: Registry,
) -> None:
    wire = FakeWire(acknowledge(*(frame(n) for n in range(10))))
    seen = []
    async with opened(registry, wire) as stream:

        @stream.on(Trade)
        async def failing(trade: Trade) -> None:
            seen.append(trade.id)
            if trade.id == 3:
                raise ValueError("rejected")

        trades = await read_events(stream.of(Trade), 10)
        await wait_until(lambda: len(seen) == 10)
        errors = stream.counters["callback_errors"]

    assert len(trades) == 10
    assert seen == list(range(10))
    assert errors == 1


async def test_an_abandoned_consumer_does_not_block_the_others(registry: Registry) -> None:
    wire = FakeWire(acknowledge(*(frame(n) for n in range(500))))
    stack = Stack(feeds=(SPEC,), queue=tapeloom.QueueSpec(size=10))
    async with tapeloom.open(stack, registry=registry, dial=wire.dial) as stream:
        async for _ in stream.of(Trade):
            break
        trades = await read_events(stream.of(Trade), 100)

    assert len(trades) == 100


async def test_a_consumer_gets_the_ended_status_after_stop(registry: Registry) -> None:
    wire = FakeWire(acknowledge(frame(1)))
    async with opened(registry, wire) as stream:
        events = []
        with anyio.fail_after(5):
            async for event in stream:
                events.append(event)
                if isinstance(event, Trade):
                    stream.stop()

    assert isinstance(events[-1], Status)
    assert events[-1].state == "ended"
