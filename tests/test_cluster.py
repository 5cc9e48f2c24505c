"""Four nodes under faults: killed, paused, cut off, every five seconds; two readers are compared with the truth.

One of the readers is killed before each fault. `TAPELOOM_CLUSTER_SECONDS` says how long the faults last;
``nox -s cluster`` runs five minutes with 200 symbols of six markets, the suite half a minute of one.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import ExitStack
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from attrs import Factory, define
from cluster_ledger import Market, Nodes, nodes, settled, stack_of, until, view
from cluster_readers import Reader, compare, reader
from cluster_venues import Venues, venues
from tapeloom_testing.services import NatsCluster, TcpProxy

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(1500)]

SECONDS = float(os.environ.get("TAPELOOM_CLUSTER_SECONDS", "30"))
SEED = int(os.environ.get("TAPELOOM_CLUSTER_SEED", "0"))
IS_LONG = SECONDS > 100
EVERY_SECONDS = 5.0
#: How long a node is paused or cut off: longer than its lease, and than a reader waits for a copy.
FAULT_SECONDS = 10.0 if IS_LONG else 4.0
NAMES = ("a", "b", "c", "d")
KINDS = ("kill", "pause", "cut", "stall")
SHARDS = 12
LEASE = 3
SECOND = 1_000_000_000
#: The last seconds of a run, which are not compared: what was read in them may not be published yet.
TAIL = 3 * SECOND


def names(count: int, quote: str) -> list[str]:
    """Return that many symbols."""
    return [f"S{number:03d}/{quote}" for number in range(count)]


SHORT = [Market("binance", "spot", names(60, "USDT"))]
LONG = [
    Market("binance", "spot", names(40, "USDT")),
    Market("binance", "usdm", names(40, "USDT:USDT"), {"futures_trades": "raw"}),
    Market("bybit", "spot", names(30, "USDT")),
    Market("bybit", "linear", names(30, "USDT:USDT")),
    Market("hyperliquid", "perp", names(30, "USDC:USDC")),
]
#: Alpaca allows one connection, so two nodes cannot have its symbols at a time.
SINGLE, TWICE = (
    Market("alpaca", "crypto", names(30, "USDT"), {"slot_pause": "2s"}),
    Market("hyperliquid", "spot", names(30, "USDC")),
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@define(eq=False)
class Faults:
    """Breaks one node after the other, and kills a reader each time."""

    cluster: Nodes
    proxies: dict[str, TcpProxy]
    readers: list[Reader]
    seed: int
    done: list[str] = Factory(list)
    broken: set[str] = Factory(set)

    def servers(self, name: str) -> list[str]:
        """Return the address by which a node finds NATS."""
        return [f"nats://127.0.0.1:{self.proxies[name].port}"]

    async def play(self) -> None:
        """Go on for as long as is asked for."""
        chance = random.Random(self.seed)
        end = anyio.current_time() + SECONDS
        async with anyio.create_task_group() as tasks:
            while anyio.current_time() < end:
                began = anyio.current_time()
                self.readers[0].kill()
                self.readers[0].start()
                name = chance.choice([name for name in NAMES if name not in self.broken])
                kind = chance.choice(KINDS)
                self.done.append(f"{kind} {name}")
                self.broken.add(name)
                if self.cluster.replicas == 1:
                    tasks.start_soon(self.break_one, name, kind)
                else:  # the promise holds while one node at a time fails
                    await self.break_and_wait(name, kind)
                await anyio.sleep(max(0.0, began + EVERY_SECONDS - anyio.current_time()))

    async def break_and_wait(self, name: str, kind: str) -> None:
        """Break a node, and wait until each shard is streamed twice again."""
        url = self.cluster.servers[0]
        before = (await view(url)).members[name].id
        await self.break_one(name, kind)
        if kind == "kill":  # its entry is there until its lease ends
            await until(url, lambda now: name in now.members and now.members[name].id != before)
        await until(url, lambda now: name in now.members)
        await settled(url, SHARDS, self.cluster.replicas)

    async def break_one(self, name: str, kind: str) -> None:
        """Break a node, and mend it."""
        proxy = self.proxies[name]
        if kind == "kill":
            self.cluster.kill(name)
            self.cluster.start(name, self.servers(name))
        elif kind == "pause":
            await self.cluster.pause(name, FAULT_SECONDS)
        elif kind == "cut":
            proxy.refuse()
            proxy.cut()
        else:  # what is sent is lost, and nobody is told
            proxy.stall()
        if kind in ("cut", "stall"):
            await anyio.sleep(FAULT_SECONDS)
            proxy.heal()
        self.broken.discard(name)


async def run(
    entered: ExitStack, folder: Path, replicas: int, sim: Venues
) -> tuple[Faults, dict[str, int], list[list[object]], tuple[int, int]]:
    """Run a cluster under faults; return what each reader has, and from when to when it ran, in ns."""
    servers = entered.enter_context(NatsCluster())
    proxies = {
        name: entered.enter_context(TcpProxy(server.host, server.port))
        for name, server in zip(NAMES, servers.servers * 2, strict=False)
    }
    cluster = entered.enter_context(
        nodes(
            folder, servers.urls, stack_of(sim.markets, sim.tables), shards=SHARDS, replicas=replicas,
            lease=LEASE, copies=3 if IS_LONG else 1,
        )
    )  # fmt: skip
    readers = [
        entered.enter_context(reader(folder, servers.urls, name)) for name in ("often", "once")
    ]
    faults = Faults(cluster, proxies, readers, seed=10 * SEED + replicas)
    try:
        for name in NAMES:
            cluster.start(name, faults.servers(name))
        await settled(servers.urls[0], SHARDS, replicas)
        since = time.time_ns()
        await faults.play()
        await anyio.sleep(LEASE)  # until then the entry of a node that was killed last is there
        await until(servers.urls[0], lambda view: {*NAMES} <= {*view.members})
        await settled(servers.urls[0], SHARDS, replicas)
        await anyio.sleep(TAIL / SECOND)
        ended = time.time_ns() - TAIL
        codes = await cluster.stop()
        stored = [await one.stored() for one in readers]
    except (AssertionError, TimeoutError) as error:
        raise AssertionError(f"{faults.done}\n{cluster.errors()}") from error
    return faults, codes, stored, (since, ended)


@pytest.mark.parametrize("replicas", [1, 2])
async def test_nothing_is_missing_that_no_gap_names_while_nodes_fail(
    tmp_path: Path, replicas: int
) -> None:
    markets = [*LONG, SINGLE if replicas == 1 else TWICE] if IS_LONG else SHORT
    with ExitStack() as entered:
        sim = entered.enter_context(venues(tmp_path, markets, rate=1.5 if IS_LONG else 5))
        faults, codes, stored, (since, until) = await run(entered, tmp_path, replicas, sim)
        truth = sim.stop()
        found = [compare(events, truth, since=since, until=until) for events in stored]
    print(f"{until=}", faults.done, *found, codes, sep="\n")

    errors = "\n".join([*map(str, found), faults.cluster.errors()])
    assert set(codes.values()) == {0}, errors
    for counts in found:
        assert counts["expected"] > 150 * SECONDS
        assert counts["symbols without trades"] == counts["invented"] == 0
        assert counts["twice"] == counts["out of order"] == 0
        assert counts["unnamed"] == 0, errors
        if replicas == 2:
            assert counts["missing"] == 0, errors
