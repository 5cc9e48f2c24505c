"""Nodes and a reader as processes on a real NATS server, with a simulated venue, compared with the truth."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import nats
import pytest
from attrs import Factory, define
from cluster_ledger import Market, Nodes, nodes, published, settled, stack_of, until
from cluster_readers import Differences, Reader, compare, reader
from tapeloom.events import Gap
from tapeloom_cluster.view import View
from tapeloom_simulator import Simulation, serve
from tapeloom_testing.services import NatsCluster, NatsServer, TcpProxy

pytest.importorskip("tapeloom_binance")
pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(600)]

SYMBOLS = [f"S{number:02d}/USDT" for number in range(24)]
SHARDS = 8
SECOND = 1_000_000_000
#: For how long a server is away: several leases; with ``nox -s cluster`` a minute.
IS_LONG = float(os.environ.get("TAPELOOM_CLUSTER_SECONDS", "30")) > 100
AWAY_SECONDS = 60.0 if IS_LONG else 8.0
#: What was read in the last seconds of a run may not be published yet.
TAIL = 2 * SECOND


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def server() -> Iterator[NatsServer]:
    with NatsServer() as running:
        yield running


@define(eq=False)
class Bench:
    """A venue, nodes that stream it, and a reader of what they publish."""

    sim: Simulation
    cluster: Nodes
    reading: Reader
    replicas: int
    since: int = 0  #: from when on the ledger is compared, in ns of the market
    codes: dict[str, int] = Factory(dict)
    gaps: list[Gap] = Factory(list)  #: what the reader has, after `compare`

    @property
    def url(self) -> str:
        """The address of the first server."""
        return self.cluster.servers[0]

    async def settled(self, but: frozenset[str] = frozenset()) -> View:
        """Wait until each shard is live on as many nodes as it is to be."""
        found = await settled(self.url, SHARDS, self.replicas, but)
        self.since = self.since or self.sim.market.now
        return found

    async def again(self, name: str, before: View) -> None:
        """Wait until a node that was killed has joined again, and each shard is live."""
        old = before.members[name].id
        await until(self.url, lambda view: name in view.members and view.members[name].id != old)
        await self.settled()

    async def compare(self) -> Differences:
        """Stop all, and compare what the reader has with the truth."""
        await anyio.sleep(TAIL / SECOND)
        until = self.sim.market.now - TAIL
        self.codes |= await self.cluster.stop()
        assert set(self.codes.values()) == {0}, self.cluster.errors()
        found = await self.reading.stored()
        self.gaps = [event for event in found if isinstance(event, Gap)]
        truth = {("binance", symbol): self.sim.truth.trades(symbol) for symbol in SYMBOLS}
        counts = compare(found, truth, since=self.since, until=until)
        states = {gap.identity: gap for gap in self.gaps}
        left = [gap for gap in states.values() if gap.state != "filled"]
        print(counts, *left[:10], sep="\n")
        assert counts["expected"] > 1000
        assert counts["symbols without trades"] == counts["invented"] == 0, counts
        assert counts["twice"] == counts["out of order"] == 0, counts
        assert counts["unnamed"] == 0, f"{counts}\n{self.cluster.errors()}"
        return counts


@asynccontextmanager
async def bench(
    servers: Sequence[str],
    folder: Path,
    replicas: int = 1,
    start: Sequence[str] = (),
    rate: float = 300,
    copies: int = 1,
) -> AsyncIterator[Bench]:
    """Yield a cluster with a reader, and wait until the nodes in *start* have all shards."""
    async with serve("binance", symbols=SYMBOLS, rate=rate, keep=True) as sim:
        stack = stack_of([Market("binance", "spot", SYMBOLS)], {"binance": sim.settings})
        with (
            reader(folder, servers) as reading,
            nodes(
                folder, servers, stack, shards=SHARDS, replicas=replicas, copies=copies
            ) as cluster,
        ):
            made = Bench(sim, cluster, reading, replicas)
            for name in start:
                cluster.start(name)
            if start:
                await until(
                    made.url, lambda view: all(bool(view.shards_of(name)) for name in start)
                )
                await made.settled()
                await anyio.sleep(1)
            yield made


@pytest.mark.parametrize("replicas", [1, 2])
async def test_nodes_are_killed_paused_drained_and_join_and_the_ledger_is_complete(
    server: NatsServer, tmp_path: Path, replicas: int
) -> None:
    """With two replicas nothing is missing; with one all that is missing is named by a gap."""
    async with bench([server.url], tmp_path, replicas, ("a", "b", "c")) as made:
        made.cluster.kill("a")
        await until(server.url, lambda view: "a" not in view.members)
        await made.settled()
        made.cluster.start("d")
        await until(server.url, lambda view: bool(view.shards_of("d")))
        await made.settled()
        await made.cluster.pause("b", 5)
        await until(server.url, lambda view: bool(view.shards_of("b")))
        await made.settled()
        counts = await made.compare()

    if replicas == 2:
        assert counts["missing"] == 0, made.cluster.errors()


@pytest.mark.parametrize("replicas", [1, 2])
async def test_clocks_that_differ_by_seconds_change_nothing(
    server: NatsServer, tmp_path: Path, replicas: int
) -> None:
    """Nodes whose clocks are 2 s ahead and 2 s behind join, take over from each other, and are killed."""
    async with bench([server.url], tmp_path, replicas) as made:
        skews, spans = {"ahead": 2.0, "behind": -2.0, "exact": 0.0}, {}
        for name, skew in skews.items():
            started = time.time_ns()
            made.cluster.start(name, skew=skew)
            await until(server.url, lambda view, name=name: bool(view.shards_of(name)))
            spans[name] = started, time.time_ns()
        before = await made.settled()
        await anyio.sleep(1)
        made.cluster.kill("ahead")
        made.cluster.start("ahead", skew=2.0)
        await made.again("ahead", before)
        await anyio.sleep(1)
        made.cluster.kill("behind")
        await until(server.url, lambda view: "behind" not in view.members)
        await made.settled()
        counts = await made.compare()

    for name, (started, joined) in spans.items():
        assert started <= before.members[name].since - skews[name] * SECOND <= joined
    if replicas == 2:
        assert counts["missing"] == 0, made.cluster.errors()


async def test_what_a_node_sent_before_its_lease_ended_and_arrives_later_reaches_no_reader(
    server: NatsServer, tmp_path: Path
) -> None:
    """A node is cut off by a proxy that holds its messages back, and gives them to NATS in the end."""
    with TcpProxy(server.host, server.port) as proxy:
        async with bench([server.url], tmp_path) as made:
            made.cluster.start("a", [f"nats://{proxy.host}:{proxy.port}"])
            made.cluster.start("b")
            for name in ("a", "b"):
                await until(server.url, lambda view, name=name: bool(view.shards_of(name)))
            before = await made.settled()
            await anyio.sleep(1)
            proxy.stall()
            taken = await until(server.url, lambda view: "a" not in view.members)
            await made.settled()
            # Paused, it cannot read that its lease has ended before what it has sent arrives.
            made.cluster.signal("a", signal.SIGSTOP)
            proxy.heal()
            await anyio.sleep(2)
            made.cluster.signal("a", signal.SIGCONT)
            await until(server.url, lambda view: bool(view.shards_of("a")))
            await made.settled()
            counts = await made.compare()
        stored = await published(server.url)

    mine = before.shards_of("a")
    assert mine
    assert not taken.shards_of("a")
    assert stored.repeated == stored.out_of_order == 0
    # What reached the stream under a lower fence is not in what the reader has: it was compared above.
    print(f"{len(mine)} shards taken over, {stored.stale} stale messages in the stream", counts)


async def test_a_shard_moves_without_a_gap_when_a_node_joins_and_when_one_is_drained(
    server: NatsServer, tmp_path: Path
) -> None:
    async with bench([server.url], tmp_path, start=("a",)) as made:
        made.cluster.start("b")
        await until(server.url, lambda view: "b" in view.members)
        joined = time.monotonic()
        await until(server.url, lambda view: len(view.shards_of("b")) == SHARDS // 2)
        await made.settled()
        joining = time.monotonic() - joined
        await anyio.sleep(1)
        stack = str(tmp_path / "a" / "stack.toml")
        drained = time.monotonic()
        code = (
            await anyio.run_process(
                [sys.executable, "-m", "tapeloom", "cluster", "drain", stack, "a"]
            )
        ).returncode
        after = await made.settled(frozenset({"a"}))
        draining = time.monotonic() - drained
        await anyio.sleep(1)
        made.cluster.signal("a", signal.SIGINT)
        made.codes["a"] = made.cluster.processes.pop("a").wait(15)
        counts = await made.compare()

    print(f"a join took {joining:.1f} s, a drain with its command {draining:.1f} s")
    assert code == 0
    assert after.shards_of("a") == []
    assert counts["missing"] == counts["gaps"] == 0, made.cluster.errors()


async def test_what_nodes_read_while_the_server_was_down_is_published_afterwards(
    server: NatsServer, tmp_path: Path
) -> None:
    """The server is down for several leases; each node takes its own shards again."""
    async with bench([server.url], tmp_path, start=("a", "b")) as made:
        before = await made.settled()
        await anyio.to_thread.run_sync(server.kill)
        await anyio.sleep(AWAY_SECONDS)
        await anyio.to_thread.run_sync(server.start)
        await until(server.url, lambda view: len(view.members) == 2)
        after = await made.settled()
        await anyio.sleep(3)
        counts = await made.compare()

    assert after.shards_of("a") == before.shards_of("a")
    assert counts["missing"] == counts["gaps"] == 0, made.cluster.errors()


async def test_the_leader_of_three_servers_is_killed_and_nothing_is_missing(tmp_path: Path) -> None:
    with NatsCluster() as servers:
        async with bench(servers.urls, tmp_path, start=("a", "b"), copies=3) as made:
            client = await nats.connect(servers.urls)
            info = await client.jetstream().stream_info("tapeloom")
            await client.close()
            leader = servers.server(info.cluster.leader)
            made.cluster.servers = [url for url in servers.urls if url != leader.url]
            await anyio.to_thread.run_sync(leader.kill)
            await anyio.sleep(AWAY_SECONDS)
            await made.settled()
            await anyio.to_thread.run_sync(leader.start)
            await anyio.sleep(3)
            counts = await made.compare()

    assert counts["missing"] == counts["gaps"] == 0, made.cluster.errors()


async def test_a_server_that_has_lost_its_data_costs_what_readers_name(
    server: NatsServer, tmp_path: Path
) -> None:
    async with bench([server.url], tmp_path, start=("a", "b")) as made:
        await anyio.sleep(3)
        await anyio.to_thread.run_sync(server.kill)
        shutil.rmtree(server.folder / "jetstream")
        await anyio.to_thread.run_sync(server.start)
        await until(server.url, lambda view: len(view.members) == 2)
        await made.settled()
        await anyio.sleep(3)
        counts = await made.compare()

    deleted = [gap for gap in made.gaps if gap.cause == "deleted"]
    print("named:", [f"{(gap.until - gap.since) / SECOND:.1f} s" for gap in deleted])
    assert deleted
    assert {gap.state for gap in deleted} == {"unrecoverable"}
    assert counts["gaps"] > 0


def test_the_demo_kills_a_node_and_nothing_is_missing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tapeloom", "cluster", "demo", "--for", "4"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert "bee is killed" in done.stdout
    assert " 0 missing by the venue's ids, 0 twice, 0 gap(s)" in last
