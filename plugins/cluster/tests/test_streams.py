"""The start of a shard on a node: what its symbols continue after, with a real server."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal

import anyio
import pytest
from attrs import evolve
from tapeloom._runtime.system_clock import SystemClock
from tapeloom._stream.sinks.checkpoints import checkpoints_after
from tapeloom.events import Event, Status, Trade
from tapeloom.plugin import FeedOutline, SinkBatch, SinkRun, Steered
from tapeloom_cluster.coordinator import Start
from tapeloom_cluster.leases import Lease, Leases
from tapeloom_cluster.session import Node, Session, fence
from tapeloom_cluster.streams import ShardStreams
from tapeloom_nats.connection import Connection
from tapeloom_nats.state import State

pytestmark = pytest.mark.anyio
FEED = FeedOutline("acme", "acme", ("BTC/USD",), ("trades",), (), ())


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Asked:
    """A feed that writes down what it is asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bool]] = []

    async def add(self, symbols: Sequence[str], stored: Mapping[str, str]) -> None:
        self.calls.append(("add", bool(stored)))

    async def drop(self, symbols: Sequence[str]) -> None:
        self.calls.append(("drop", False))

    async def fill_gaps(self, symbols: Sequence[str], seconds: float) -> None:
        self.calls.append(("fill", seconds > 0))

    def is_live(self, symbols: Sequence[str]) -> bool:
        return False


async def publish(node: Node, slot: int, event: Event) -> None:
    """Publish an event as the owner of a slot."""
    leases = Leases(time.monotonic, time.monotonic() + 60.0, True)
    session = Session(node, leases, SinkRun("nats", 7), time.monotonic)
    await session.open(is_owner=False)
    connection = Connection(node.settings)
    await connection.open()
    lease = Lease("0", slot, 5, 0, State(keeps_events=True), checkpoints_after({}))
    assert await fence(connection, node, 7, lease)
    await connection.close()
    leases.hold(lease)
    await session.write(SinkBatch(7, 1, [event]))
    await session.close()


@asynccontextmanager
async def running(
    node: Node, feed: Asked, emit: Callable[[list[Event]], Awaitable[None]]
) -> AsyncIterator[ShardStreams]:
    """Yield the shards of a node while they run."""
    steered = Steered({"acme": feed}, emit, SystemClock(), checkpoints_after)
    leases = Leases(time.monotonic, time.monotonic() + 60.0, True, epoch=9)
    streams = ShardStreams(node, leases, [FEED], steered)
    await streams.open()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(streams.run)
        with anyio.fail_after(20):
            yield streams
        tasks.cancel_scope.cancel()
    await streams.close()


async def until_idle(streams: ShardStreams) -> None:
    """Wait until everything that was asked for is done."""
    while not streams.is_idle:  # noqa: ASYNC110
        await anyio.sleep(0.01)


async def test_a_shard_that_was_begun_beside_a_node_that_died_is_begun_anew_after_what_is_stored(
    node: Node,
) -> None:
    """Until then it continued after nothing: what the other one had still to publish is a gap now."""
    trade = Trade("acme", "BTC/USD", 1, 1, Decimal(1), Decimal(2), "buy", 1)
    await publish(evolve(node, name="two", writer="writer-2"), 1, trade)
    feed = Asked()

    async def emit(events: list[Event]) -> None:
        pass

    async with running(node, feed, emit) as streams:
        for resume in (False, True):
            streams.start(Start(0, 0, 11 + resume, resume))
            await until_idle(streams)

    assert feed.calls == [("add", False), ("drop", False), ("add", True)]


async def test_a_shard_that_ends_fills_its_gaps_before_its_symbols_are_dropped(node: Node) -> None:
    feed, released = Asked(), []

    async def emit(events: list[Event]) -> None:
        released.extend(event.state for event in events if isinstance(event, Status))

    async with running(node, feed, emit) as streams:
        streams.start(Start(0, 0, 11, resume=True))
        await until_idle(streams)
        streams.stop(0)
        while not released:  # noqa: ASYNC110
            await anyio.sleep(0.01)

    assert feed.calls == [("add", False), ("fill", True), ("drop", False)]
    assert released == ["released"]
