"""Closing a stream: stop reading, unsubscribe within the rate limits, send a close frame, deliver the rest."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import anyio
import pytest
import tapeloom
from tapeloom import FeedSpec, Registry, Stack, Status, Trade
from tapeloom.errors import ConnectionFailed
from tapeloom.plugin import Endpoint, Resume
from tapeloom.units import Rate
from tapeloom_testing import FakeClient, FakeVenue, FakeWire, VirtualClock, WireEnd
from wsproto import events as ws
from wsproto.utilities import LocalProtocolError


def frame(n: int, symbol: str = "BTCUSD") -> str:
    return json.dumps({"s": symbol, "t": n, "p": "1", "q": "1", "i": n})


def sent_operations(end: WireEnd) -> list[tuple[str, list[str]]]:
    messages = [json.loads(text) for text in end.sent]
    return [(message["op"], message["args"]) for message in messages]


async def acknowledge(end: WireEnd, endpoint: Endpoint) -> None:
    while True:
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))


async def states_until(stream: tapeloom.Stream, state: str, count: int = 1) -> list[str]:
    seen: list[str] = []
    with anyio.fail_after(5):
        async for event in stream:
            if isinstance(event, Status):
                seen.append(event.state)
                if seen.count(state) == count:
                    return seen
    return seen


def opened(registry: Registry, wire: FakeWire, symbols: Any = ("BTC/USD",), **more: Any) -> Any:
    feed = FeedSpec("acme", symbols, ["trades"])
    return tapeloom.open(feed, registry=registry, dial=wire.dial, seed=1, **more)


@pytest.mark.parametrize("how", ["stop", "leave"])
async def test_subscriptions_are_ended_before_the_connection_is_closed(
    registry: Registry, how: str
) -> None:
    wire = FakeWire(acknowledge)
    async with opened(registry, wire, ("BTC/USD", "ETH/USD")) as stream:
        await states_until(stream, "subscribed")
        if how == "stop":
            stream.stop()
            await stream.run()

    assert sent_operations(wire.ends[0]) == [
        ("sub", ["BTCUSD@trades", "ETHUSD@trades"]),
        ("unsub", ["BTCUSD@trades", "ETHUSD@trades"]),
    ]


async def test_unsubscribe_is_sent_before_the_close_frame(registry: Registry) -> None:
    """The venue keeps sending meanwhile."""
    received: list[Any] = []
    gone = anyio.Event()

    async def script(client: FakeClient) -> None:
        received.append(json.loads(await client.receive_text())["op"])
        await client.send(json.dumps({"ok": 1}), frame(1))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep_sending, client)
            while not received or not isinstance(received[-1], ws.CloseConnection):
                event = await client.receive()
                received.append(
                    json.loads(event.data)["op"] if isinstance(event, ws.TextMessage) else event
                )
            tasks.cancel_scope.cancel()
        gone.set()

    async def keep_sending(client: FakeClient) -> None:
        # The close frame may arrive while a message is being sent.
        with suppress(LocalProtocolError):
            for n in range(2, 10_000):
                await client.send(frame(n))
                await anyio.sleep(0.001)

    async with FakeVenue(script).serve() as venue:
        feed = FeedSpec("acme", ["BTC/USD"], ["trades"])
        stack = Stack(feeds=(feed,), venues={"acme": {"url": venue.url()}})
        with anyio.fail_after(5):
            async with tapeloom.open(stack, registry=registry) as stream:
                async for event in stream:
                    if isinstance(event, Trade) and event.id == 20:
                        break
            await gone.wait()

    assert received[:2] == ["sub", "unsub"]
    assert isinstance(received[2], ws.CloseConnection)
    assert received[2].code == 1000


async def test_a_stopped_stream_reads_nothing_more(registry: Registry) -> None:
    ends: list[WireEnd] = []

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        ends.append(end)
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}), frame(1))
        await end.take()  # the unsubscribe is answered with more trades
        end.push(frame(2), frame(3))
        await anyio.sleep_forever()

    got: list[Any] = []
    async with opened(registry, FakeWire(answer)) as stream:
        with anyio.fail_after(5):
            async for trade in stream.of(Trade):
                got.append(trade.id)
                stream.stop()

    assert got == [1]


async def test_unsubscribing_keeps_the_rate_limit_and_stops_at_the_deadline(
    registry: Registry, acme: Any
) -> None:
    """50 messages would take 25 seconds; unsubscribing has two seconds."""
    acme.endpoint = {
        "message_rate": Rate(2, 1.0),
        "ack_timeout_seconds": 1e6,
        "max_subscriptions": 1000,
    }
    clock = VirtualClock()
    times: list[tuple[str, float]] = []

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        while True:
            message = json.loads(await end.take())
            times.append((message["op"], clock.monotonic()))
            end.push(json.dumps({"ok": message["id"]}))

    symbols = [f"S{n}/USD" for n in range(500)]
    stopped = 0.0
    async with clock.running(), opened(registry, FakeWire(answer), symbols, clock=clock) as stream:
        await states_until(stream, "subscribed", 50)
        stopped = clock.monotonic()
    all_times = [sent_at for _, sent_at in times]
    unsubscribe_times = [sent_at for op, sent_at in times if op == "unsub"]

    assert all(third - first > 1.0 for first, third in zip(all_times, all_times[2:], strict=False))
    assert 2 <= len(unsubscribe_times) <= 4
    assert unsubscribe_times[-1] - stopped <= 2.0


async def test_refused_dropped_and_unsent_subscriptions_are_not_ended(
    registry: Registry, acme: Any
) -> None:
    acme.endpoint = {"message_rate": Rate(1, 1.0), "ack_timeout_seconds": 1e6}

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        while True:
            message = json.loads(await end.take())
            if message["args"][0] == "S10USD@trades":
                end.push(json.dumps({"error": "no such symbol", "id": message["id"]}))
            else:
                end.push(json.dumps({"ok": message["id"]}))

    clock = VirtualClock()
    wire = FakeWire(answer)
    symbols = [f"S{n}/USD" for n in range(35)]  # ten in a message, one message in a second
    async with clock.running(), opened(registry, wire, symbols, clock=clock) as stream:
        await states_until(stream, "refused", 10)  # the second message
        await stream.drop("S3/USD")
    ended = [name for op, names in sent_operations(wire.ends[0]) if op == "unsub" for name in names]
    begun = {name for op, names in sent_operations(wire.ends[0]) if op == "sub" for name in names}

    assert ended[0] == "S3USD@trades"
    assert ended.count("S3USD@trades") == 1
    assert not {f"S{n}USD@trades" for n in range(10, 20)} & set(ended)
    assert set(ended) <= begun


async def test_without_an_open_connection_nothing_is_sent_or_dialled(registry: Registry) -> None:
    wire = FakeWire(acknowledge, refusals=[ConnectionFailed("acme", "not now") for _ in range(100)])
    clock = VirtualClock()
    async with clock.running(), opened(registry, wire, clock=clock) as stream:
        await states_until(stream, "reconnecting", 3)
        stream.stop()
        left = len(wire.refusals)
        await stream.run()

    assert wire.ends == []
    assert len(wire.refusals) == left


async def test_a_connection_lost_while_unsubscribing_is_not_dialled_again(
    registry: Registry, acme: Any
) -> None:
    acme.endpoint = {"message_rate": Rate(2, 1.0), "ack_timeout_seconds": 1e6}

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        while True:
            message = json.loads(await end.take())
            if message["op"] == "unsub":
                end.close(1006)
            end.push(json.dumps({"ok": message["id"]}))

    clock = VirtualClock()
    wire = FakeWire(answer)
    symbols = [f"S{n}/USD" for n in range(50)]
    async with clock.running(), opened(registry, wire, symbols, clock=clock) as stream:
        consumer = stream.consume()
        await states_until(stream, "subscribed", 5)
        stream.stop()
        states = [event.state async for event in consumer if isinstance(event, Status)]

    assert len(wire.ends) == 1
    assert states[-1] == "ended"
    assert "reconnecting" not in states


async def test_an_exception_leaves_without_unsubscribing(registry: Registry, acme: Any) -> None:
    """An exception closes the connections at once: nothing more is sent."""
    wire = FakeWire(acknowledge)
    with pytest.raises(KeyboardInterrupt):
        async with opened(registry, wire) as stream:
            await states_until(stream, "subscribed")
            raise KeyboardInterrupt

    assert [op for op, _ in sent_operations(wire.ends[0])] == ["sub"]


async def test_a_blocking_consumer_does_not_delay_unsubscribing(registry: Registry) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))
        for n in range(50):
            end.push(frame(n))
        await anyio.sleep_forever()

    wire = FakeWire(answer)
    async with opened(registry, wire) as stream:
        slow = stream.consume(Trade, size=1, policy="block")
        await anyio.wait_all_tasks_blocked()
        stream.stop()
        with anyio.fail_after(5):
            while len(wire.ends[0].sent) < 2:  # noqa: ASYNC110 - there is no event to wait for
                await anyio.sleep(0.001)
        taken = [trade.id async for trade in slow]

    assert [op for op, _ in sent_operations(wire.ends[0])] == ["sub", "unsub"]
    assert taken == list(range(len(taken)))  # what was read before is still delivered, in order
    assert len(taken) >= 2


async def test_a_stream_can_be_cancelled_while_it_waits_for_a_sink(registry: Registry) -> None:
    class Stuck:
        backends = frozenset({"asyncio", "trio"})

        guarantee = "at_most_once"

        async def open(self, run: Any) -> Resume:
            return Resume()

        async def write(self, batch: Any) -> None:
            await anyio.sleep_forever()

        async def close(self) -> None:
            closed.append(True)

    class Plugin:
        @tapeloom.hooks.hookimpl
        def sink(self, settings: Any) -> Stuck:
            return Stuck()

    closed: list[bool] = []
    registry.register(Plugin(), "stuck")
    feed = FeedSpec("acme", ["BTC/USD"], ["trades"])
    stack = Stack(feeds=(feed,), sinks=(tapeloom.SinkSpec("stuck"),))
    with anyio.move_on_after(1) as scope:
        async with tapeloom.open(
            stack, registry=registry, dial=FakeWire(acknowledge).dial, seed=1
        ) as stream:
            await states_until(stream, "subscribed")

    assert scope.cancelled_caught
    assert closed == [True]
