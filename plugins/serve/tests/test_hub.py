"""The hub: each client gets its selection in order; what it misses is announced to it."""

from __future__ import annotations

import anyio
import pytest
from tapeloom import Book, Gap, QueueSpec
from tapeloom.errors import QueueOverflow
from tapeloom_serve.hub import Hub, SharedBatch, text_of
from tapeloom_serve.selection import EVERYTHING, Selection

pytestmark = pytest.mark.anyio


def only(**fields):
    return Selection(**{name: frozenset(value) for name, value in fields.items()})


def attach(hub, selection=EVERYTHING, size=100, policy="drop_oldest"):
    return hub.attach(selection, QueueSpec(size=size, policy=policy), "client")[0]


async def drain(client):
    with anyio.move_on_after(0.01):
        return [event for batch in await client.get() for event in batch]
    return []


async def test_each_client_gets_its_selection_in_order(make_trade):
    hub = Hub()
    clients = {name: attach(hub, only(symbols=symbols)) for name, symbols in
               {"both": ["A", "B"], "a": ["A"], "none": ["C"], "all": []}.items()}  # fmt: skip
    trades = [make_trade(n, "ABCA"[n % 4]) for n in range(40)]

    for first in range(0, 40, 8):
        hub.publish(trades[first : first + 8])

    assert await drain(clients["both"]) == [trade for trade in trades if trade.symbol in "AB"]
    assert await drain(clients["a"]) == [trade for trade in trades if trade.symbol == "A"]
    assert await drain(clients["none"]) == [trade for trade in trades if trade.symbol == "C"]
    assert await drain(clients["all"]) == trades


async def test_clients_with_one_selection_share_the_batch_and_its_text(make_trade):
    hub = Hub()
    clients = [attach(hub, only(types=["trade"])) for _ in range(3)]

    hub.publish([make_trade(1), make_trade(2)])
    batches = [(await client.get())[0] for client in clients]

    assert batches[0] is batches[1] is batches[2]
    assert text_of(batches[0]) is text_of(batches[1])


async def test_what_a_slow_client_misses_is_announced_to_it_alone(make_trade):
    hub = Hub()
    slow, fast = attach(hub, size=10), attach(hub)
    trades = [make_trade(n) for n in range(50)]

    for first in range(0, 50, 5):
        hub.publish(trades[first : first + 5])
    gap, *rest = await drain(slow)

    assert (gap.cause, gap.missing, gap.since, gap.until) == (
        "overflow", 40, trades[0].ts, trades[39].ts
    )  # fmt: skip
    assert rest == trades[40:]
    assert await drain(fast) == trades


async def test_the_policy_error_ends_the_client(make_trade):
    hub = Hub()
    client = attach(hub, size=2, policy="error")
    hub.publish([make_trade(1), make_trade(2)])
    hub.publish([make_trade(3)])
    await client.get()

    with pytest.raises(QueueOverflow, match="fell 2 events behind"):
        await client.get()


async def test_the_policy_conflate_keeps_the_latest_of_each_kind(make_trade):
    hub = Hub()
    client = attach(hub, size=2, policy="conflate")
    hub.publish([make_trade(n, "AB"[n % 2]) for n in range(10)])
    hub.publish([make_trade(n, "AB"[n % 2]) for n in range(10, 20)])

    events = await drain(client)

    assert [event.id for event in events if type(event) is not Gap] == [18, 19]
    assert sum(event.missing for event in events if type(event) is Gap) == 18


def book(number, kind="delta", bids=()):
    return Book(
        "venue",
        "BTC/USDT",
        number,
        number,
        kind,
        [list(level) for level in bids],
        [],
        number,
        number,
    )


@pytest.mark.parametrize("policy", ["drop_oldest", "conflate"])
async def test_a_client_that_lost_a_delta_gets_the_book_anew_and_no_delta_twice(policy):
    hub = Hub()
    client = attach(hub, size=4, policy=policy)
    hub.publish([book(1, "snapshot", [("1", "1")])])
    for number in range(2, 20):
        hub.publish([book(number, bids=[(str(number), "1")])])
    behind = await drain(client)
    hub.publish([book(20, bids=[("20", "1")])])
    ahead = await drain(client)

    assert [type(event) for event in behind] == [Gap, Book]
    assert (behind[1].kind, behind[1].last_id, len(behind[1].bids)) == ("snapshot", 19, 19)
    assert [(event.kind, event.last_id) for event in ahead] == [("delta", 20)]


async def test_a_late_joiner_gets_the_state_first_and_then_what_follows():
    hub = Hub()
    hub.publish([book(1, "snapshot", [("1", "1")]), book(2, bids=[("2", "1")])])

    client, states = hub.attach(EVERYTHING, QueueSpec(size=10), "late")
    hub.publish([book(3, bids=[("3", "1")])])

    assert [(event.kind, event.last_id, len(event.bids)) for event in states] == [
        ("snapshot", 2, 2)
    ]
    assert [event.last_id for event in await drain(client)] == [3]


async def test_a_changed_selection_holds_from_now_on_and_brings_the_states_that_are_new(make_trade):
    hub = Hub()
    hub.publish([book(1, "snapshot")])
    client = attach(hub, only(types=["trade"]))
    hub.publish([make_trade(1), book(2)])

    states = client.select(only(types=["book", "trade"]))
    hub.publish([make_trade(2), book(3)])

    assert [event.last_id for event in states] == [2]
    assert [getattr(event, "last_id", None) or event.id for event in await drain(client)] == [
        1,
        2,
        3,
    ]
    assert client.select(only(types=["book"])) == []


async def test_a_closed_client_gets_nothing_and_leaves_nothing_behind(make_trade):
    hub = Hub()
    client = attach(hub)
    client.close()

    hub.publish([make_trade(1)])

    assert hub.clients == []
    assert await client.get() == []


async def test_the_end_of_the_stream_comes_after_all_that_is_queued(make_trade):
    hub = Hub()
    client = attach(hub)
    hub.publish([make_trade(1)])
    hub.close()

    assert isinstance((await client.get())[0], SharedBatch)
    assert await client.get() == []
    assert await attach(hub).get() == []
