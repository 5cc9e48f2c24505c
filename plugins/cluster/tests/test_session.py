"""What a node publishes: under its fence, to its slots, and nothing once another node has one."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from attrs import evolve
from cluster_ledger import published
from tapeloom._stream.sinks.checkpoints import checkpoints_after
from tapeloom.errors import SinkUnavailable
from tapeloom.events import Event, Gap, Status, Trade, encode
from tapeloom.plugin import SinkBatch, SinkRun
from tapeloom_cluster.leases import Lease, Leases
from tapeloom_cluster.session import (
    ACQUIRED,
    RELEASED,
    Node,
    Session,
    checkpoint_of,
    fence,
    last_message,
    slot_subject,
)
from tapeloom_nats.connection import Connection
from tapeloom_nats.state import State
from tapeloom_nats.stream import find
from tapeloom_testing.services import NatsServer

EPOCH = 7


def trade(number: int) -> Trade:
    return Trade("v", "BTC/USD", number, number, Decimal(1), Decimal(2), "buy", number)


def batch(first: int, *events: Event, epoch: int = EPOCH) -> SinkBatch:
    return SinkBatch(epoch, first, events)


async def owner(
    node: Node, fence_number: int, epoch: int = EPOCH, *, begun: bool = False
) -> tuple[Session, Leases]:
    """Return the session of a node that has taken the only slot with a fence."""
    leases = Leases(time.monotonic, time.monotonic() + 60.0, True)
    session = Session(node, leases, SinkRun("nats", epoch), time.monotonic)
    await session.open(is_owner=False)
    connection = Connection(node.settings)
    await connection.open()
    lease = Lease("0", 0, fence_number, 0, State(keeps_events=True), checkpoints_after({}))
    assert await fence(connection, node, epoch, lease, begun=begun)
    await connection.close()
    leases.hold(lease)
    return session, leases


def run(main: Callable[[], Any]) -> Any:
    return asyncio.run(main())


def stored(server: NatsServer, node: Node) -> tuple[list[int], int]:
    """Return the ids that a reader has, and how many messages were of a lower fence."""
    found = asyncio.run(published(server.url, node.settings.stream))
    assert found.repeated == 0
    return sorted(found.trades.get("BTC/USD", {})), found.stale


def test_nothing_of_a_node_is_stored_after_another_has_taken_its_slot(
    server: NatsServer, node: Node
) -> None:
    """The lease of the first still holds by its own clock: as if it had been paused after its look."""

    async def main() -> tuple[int, Lease | None]:
        first, leases = await owner(node, 5)
        await first.write(batch(1, trade(1)))
        second, _ = await owner(evolve(node, name="two", writer="writer-2"), 9, epoch=8)
        await first.write(batch(2, trade(2), trade(3)))
        await second.write(batch(1, trade(4), epoch=8))
        await first.write(batch(4, trade(5)))
        await second.write(batch(2, trade(6), epoch=8))
        for session in (first, second):
            await session.close()
        return leases.published.fenced, leases.get("0")

    fenced, left = run(main)

    assert stored(server, node) == ([1, 4, 6], 0)
    assert fenced == 3
    assert left is None


def test_a_late_fence_message_of_the_former_owner_does_not_stop_the_new_one(
    server: NatsServer, node: Node
) -> None:
    async def main() -> None:
        new, _ = await owner(node, 9)
        await new.write(batch(1, trade(1)))
        connection = Connection(node.settings)
        await connection.open()
        late = Lease("0", 0, 5, 0, State(), checkpoints_after({}))
        assert not await fence(connection, evolve(node, name="late"), EPOCH, late)
        await connection.close()
        await new.write(batch(2, trade(2)))
        await new.close()

    run(main)

    assert stored(server, node) == ([1, 2], 1)


def test_a_node_whose_lease_has_ended_publishes_nothing(server: NatsServer, node: Node) -> None:
    async def main() -> None:
        session, leases = await owner(node, 5)
        leases.valid_until = time.monotonic()
        with pytest.raises(SinkUnavailable, match="no valid lease"):
            await session.write(batch(1, trade(1)))
        leases.valid_until = time.monotonic() + 60
        await session.write(batch(1, trade(1)))
        await session.close()

    run(main)

    assert stored(server, node) == ([1], 0)


def test_what_was_stored_before_a_lost_answer_is_not_stored_again(
    server: NatsServer, node: Node
) -> None:
    async def main() -> None:
        session, leases = await owner(node, 5)
        await session.write(batch(1, trade(1), trade(2)))
        lease = leases.get("0")
        assert lease is not None
        lease.state, lease.expected = (
            State(keeps_events=True),
            lease.expected - 1,
        )  # its answer was not received
        await session.close()
        again = Session(node, leases, SinkRun("nats", EPOCH), time.monotonic)
        await again.open(is_owner=True)
        await again.write(batch(1, trade(1), trade(2)))
        await again.write(batch(3, trade(3)))
        await again.close()

    run(main)

    assert stored(server, node) == ([1, 2, 3], 0)


def test_a_shard_is_live_when_the_status_behind_which_it_is_published_is_stored(
    server: NatsServer, node: Node
) -> None:
    """A node that reads but cannot publish is not live: the others would let go of the shard."""

    async def main() -> list[set[str]]:
        session, leases = await owner(node, 5)
        leases.starting["0"] = "fence 5"
        other = Status("v", "BTC/USD", 1, 1, ACQUIRED, "fence 4")
        mine = evolve(other, detail="fence 5")
        found = []
        leases.is_settled = False
        with pytest.raises(SinkUnavailable):
            await session.write(batch(1, mine))
        found.append({*leases.live})
        leases.is_settled = True
        await session.write(batch(1, trade(1), other))
        found.append({*leases.live})
        await session.write(batch(3, mine))
        found.append({*leases.live})
        leases.lose("0")
        found.append({*leases.live})
        await session.close()
        return found

    assert run(main) == [set(), set(), {"0"}, set()]


def test_what_was_read_before_the_lease_began_is_not_published_under_it(
    server: NatsServer, node: Node
) -> None:
    """A node that was paused has lost the shard, and got it again: between the two it has read nothing."""

    async def main() -> int:
        session, leases = await owner(node, 5)
        lease = leases.get("0")
        assert lease is not None
        lease.since = 3
        await session.write(batch(1, trade(1), trade(2), trade(3)))
        await session.write(batch(4, trade(4), trade(5)))
        later = evolve(trade(6), recv=60_000_000_000)
        await session.write(batch(6, later))
        await session.close()
        return lease.since

    assert run(main) == 0
    assert stored(server, node) == ([3, 4, 5, 6], 0)


def test_the_end_of_a_shard_is_published_after_all_that_was_read_of_it(
    server: NatsServer, node: Node
) -> None:
    async def main() -> Any:
        session, leases = await owner(node, 5)
        leases.ending["0"] = "shard 0"
        await session.write(batch(1, trade(1), Status("v", "BTC/USD", 2, 2, RELEASED, "shard 0")))
        await session.write(batch(3, trade(3)))
        await session.close()
        connection = Connection(node.settings)
        await connection.open()
        found = await last_message(connection, node.settings.stream, slot_subject(node, "0", 0))
        await connection.close()
        return found[1], leases

    header, leases = run(main)

    assert (header.ended, header.count, header.fence, header.last) == (True, 0, 5, 2)
    assert leases.ended == {"0"}
    assert leases.published.fenced == 1
    assert stored(server, node) == ([1], 0)


def test_a_body_that_is_too_large_for_a_message_is_published_in_parts(
    server: NatsServer, node: Node
) -> None:
    async def main() -> None:
        session, _ = await owner(node, 5)
        session._part_size = 300
        await session.write(batch(1, *map(trade, range(1, 101))))
        await session.close()

    run(main)

    assert stored(server, node)[0] == [*range(1, 101)]


def test_a_session_that_could_not_be_opened_is_closed_without_an_error(
    server: NatsServer, node: Node
) -> None:
    async def main() -> None:
        opened, leases = await owner(node, 5)
        await opened.close()
        away = evolve(node, settings=evolve(node.settings, servers="nats://127.0.0.1:1"))
        session = Session(away, leases, SinkRun("nats", EPOCH), time.monotonic)
        with pytest.raises(SinkUnavailable, match="cannot be reached"):
            await session.open(is_owner=True)
        await session.close()

    run(main)


def test_a_node_that_begins_beside_another_one_leaves_out_what_the_venue_repeats(
    server: NatsServer, node: Node
) -> None:
    """Once something new has come, or a gap, what was missed is published."""

    async def main() -> None:
        session, leases = await owner(node, 5)
        (lease,) = leases.all()
        lease.beside_until = 1000
        past = evolve(trade(1), origin="history"), evolve(trade(2), origin="backfill")
        missed = evolve(trade(4), origin="backfill")
        first = batch(1, *past, trade(3), missed)
        readings = iter([0.0, 0.0, float("inf")])  # its lease ends while the batch is encoded
        leases.monotonic = lambda: next(readings, 0.0)
        with pytest.raises(SinkUnavailable):
            await session.write(first)
        await session.write(first)  # what is written again is the same
        await session.write(batch(5, evolve(trade(1001), origin="history")))
        await session.close()

    run(main)

    assert stored(server, node) == ([3, 4, 1001], 0)


async def saved(node: Node) -> dict[str, Any]:
    """Return the positions in the checkpoint of the only slot."""
    connection = Connection(node.settings)
    await connection.open()
    state = State()
    info = await find(connection, node.settings.stream)
    assert info is not None
    await checkpoint_of(connection, node, "0", 0).load(state, info)
    await connection.close()
    return {json.loads(key)[1]: json.loads(text) for key, text in state.positions.items()}


def test_a_checkpoint_has_the_positions_of_what_was_published_and_of_nothing_else(
    server: NatsServer, node: Node
) -> None:
    """A node that was paused has trades of before its lease, which it leaves out: others may have them or not."""

    async def main() -> dict[str, Any]:
        session, leases = await owner(node, 5)
        await session.write(batch(1, trade(1)))
        (lease,) = leases.all()
        lease.since = 3
        other = evolve(trade(3), symbol="ETH/USD")
        await session.write(batch(2, trade(2), other))
        await session.close()
        return await saved(node)

    found = run(main)

    assert {symbol: position["last"][2] for symbol, position in found.items()} == {
        "BTC/USD": 1, "ETH/USD": 3,
    }  # fmt: skip
    assert stored(server, node)[0] == [1]


def test_a_message_whose_answer_was_lost_counts_in_the_positions(
    server: NatsServer, node: Node
) -> None:
    async def main() -> dict[str, Any]:
        session, leases = await owner(node, 5)
        await session.write(batch(1, trade(1), trade(2)))
        (lease,) = leases.all()
        lease.state, lease.kept = State(keeps_events=True), checkpoints_after({})
        lease.expected -= 1
        again = Session(node, leases, SinkRun("nats", EPOCH), time.monotonic)
        await again.open(is_owner=True)
        await again.close()
        await session.close()
        return await saved(node)

    assert run(main)["BTC/USD"]["last"][2] == 2


def test_an_open_gap_of_an_earlier_owner_of_the_slot_is_not_taken_over(
    server: NatsServer, node: Node
) -> None:
    """Of the last owner it is: nobody else is to fill it. The one before has left it to another slot."""

    async def main() -> dict[str, Any]:
        gaps = [
            Gap("v", symbol, 9, 9, since, 9, "restart", None, "open", "trades", since)
            for symbol, since in (("BTC/USD", 3), ("ETH/USD", 4))
        ]
        for number, gap in enumerate(gaps, 1):
            session, _ = await owner(node, number, number, begun=True)
            await session.write(batch(1, gap, evolve(trade(9), symbol=gap.symbol), epoch=number))
            await session.close()
        last, leases = await owner(node, 9, begun=True)
        (lease,) = leases.all()
        await last.close()
        return {
            json.loads(key)[1]: [gap["since"] for gap, _ in json.loads(text).get("open", [])]
            for key, text in lease.checkpoint().positions.items()
        }

    assert run(main) == {"BTC/USD": [], "ETH/USD": [4]}


def test_a_shard_that_came_back_begins_with_the_positions_of_its_last_owner() -> None:
    """Of the earlier lease in this slot there is an open gap, which has been filled since in another slot."""
    key, other = (json.dumps(["v", symbol, "trades"]) for symbol in ("BTC/USD", "ETH/USD"))
    gap = Gap("v", "BTC/USD", 9, 9, 3, 9, "restart", None, "open", "trades", 3)
    lease = Lease("0", 0, 5, 0, State(), checkpoints_after({}))
    lease.state.positions = {
        key: f'{{"ts":9,"last":[9,9,9],"recent":[],"open":[[{encode(gap)},[]]]}}',
        other: '{"ts":4}',
    }
    newest = {key: '{"ts":20,"last":[20,20,20]}'}
    lease.begin_with(newest, checkpoints_after(newest))
    lease.stored([trade(21)])

    assert {name: json.loads(text) for name, text in lease.checkpoint().positions.items()} == {
        key: {"ts": 21, "last": [21, 21, 21]}
    }
    assert other in lease.state.changed  # so that it is removed
