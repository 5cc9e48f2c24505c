"""A cluster of real processes on a real NATS server, what its bucket says, and what it has published."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import nats
from attrs import Factory, define, frozen
from nats.js.api import AckPolicy, ConsumerConfig
from tapeloom.events import Gap, Trade
from tapeloom_cluster.view import View
from tapeloom_nats import MessageReader
from tapeloom_nats.messages import parse_header

FEED = """
[[feed]]
name = "{name}"
venue = "{venue}"
market = "{market}"
symbols = {symbols}
channels = ["trades"]
"""

CLUSTER = """
[[sink]]
use = "nats"
servers = SERVERS
shards = {shards}
replicas = {copies}
spool = "200MB"

[cluster]
use = "cluster"
replicas = {replicas}
lease = "{lease}s"
"""

#: Runs the command with a wall clock that differs from this machine's by so many nanoseconds.
SKEWED = """
import runpy, sys, time
skew, real_ns = int(sys.argv.pop(1)), time.time_ns
time.time_ns = lambda: real_ns() + skew
time.time = lambda: (real_ns() + skew) / 1e9
runpy.run_module("tapeloom", run_name="__main__")
"""


@frozen
class Market:
    """What is streamed of a market of a venue."""

    venue: str
    market: str
    symbols: Sequence[str]
    settings: Mapping[str, Any] = {}  #: in the table of the venue

    @property
    def name(self) -> str:
        """The name of its feed."""
        return f"{self.venue}-{self.market}"


def stack_of(markets: Iterable[Market], tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the text of a stack that streams these markets; *tables* say where the venues are."""
    text, found = "", {venue: dict(table) for venue, table in tables.items()}
    for market in markets:
        symbols = json.dumps([*market.symbols])
        text += FEED.format(
            name=market.name, venue=market.venue, market=market.market, symbols=symbols
        )
        found[market.venue] |= market.settings
    for venue, table in found.items():
        lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        text += "\n".join(["", f"[venue.{venue}]", *lines, ""])
    return text


@define(eq=False)
class Nodes:
    """Processes that run the same stack, each in a folder of its own."""

    folder: Path
    stack: str
    servers: Sequence[str]
    replicas: int
    processes: dict[str, subprocess.Popen[bytes]] = Factory(dict)

    def start(self, name: str, servers: Sequence[str] = (), *, skew: float = 0.0) -> None:
        """Start a node; *servers* are those that it connects to, such as a proxy.

        *skew* is by how many seconds its wall clock is ahead of this machine's.
        """
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        addresses = [*(servers or self.servers)]
        (folder / "stack.toml").write_text(self.stack.replace("SERVERS", repr(addresses)))
        program = ["-c", SKEWED, str(round(skew * 1e9))] if skew else ["-m", "tapeloom"]
        with (folder / "errors.txt").open("ab") as errors:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *program, "run", "stack.toml", "--out", "none"],
                cwd=folder, stderr=errors, stdout=subprocess.DEVNULL,
                env={**os.environ, "TAPELOOM_NODE": name},
            )  # fmt: skip

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a node."""
        self.processes[name].send_signal(number)

    def kill(self, name: str) -> None:
        """Kill a node."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    async def pause(self, name: str, seconds: float) -> None:
        """Stop a node for a while."""
        self.signal(name, signal.SIGSTOP)
        await anyio.sleep(seconds)
        self.signal(name, signal.SIGCONT)

    async def stop(self) -> dict[str, int]:
        """End all nodes in order; return their exit codes."""
        for process in self.processes.values():
            process.send_signal(signal.SIGINT)
        codes = {}
        for name, process in self.processes.items():
            codes[name] = await anyio.to_thread.run_sync(lambda p=process: p.wait(15))
        self.processes.clear()
        return codes

    def errors(self) -> str:
        """Return what the nodes have logged."""
        files = sorted(self.folder.glob("*/errors.txt"))
        return "\n".join(f"{file.parent.name}: {file.read_text()[-2000:]}" for file in files)

    def end(self) -> None:
        """Kill what is left."""
        for process in self.processes.values():
            process.kill()
            process.wait()


@contextlib.contextmanager
def nodes(
    folder: Path,
    servers: Sequence[str],
    stack: str,
    *,
    shards: int = 8,
    replicas: int = 1,
    lease: float = 2,
    copies: int = 1,
) -> Iterator[Nodes]:
    """Yield nodes that are not started yet, of a *stack* without a sink; kill those that are left.

    *copies* is on how many servers each message is stored.
    """
    stack += CLUSTER.format(shards=shards, replicas=replicas, lease=lease, copies=copies)
    made = Nodes(folder, stack, servers, replicas)
    try:
        yield made
    finally:
        made.end()


# ------------------------------------------------------------------------------------------ the bucket


_NO_BUCKET = (
    nats.js.errors.NotFoundError,
    nats.js.errors.ServiceUnavailableError,
    nats.errors.TimeoutError,
)


async def view(url: str, bucket: str = "tapeloom_cluster") -> View:
    """Return what the bucket says now: nothing if there is none, or no server leads it."""
    found = View()
    client = await nats.connect(url)
    try:
        context = client.jetstream()
        config = ConsumerConfig(ack_policy=AckPolicy.NONE)
        with contextlib.suppress(*_NO_BUCKET):
            subscription = await context.pull_subscribe(
                f"$KV.{bucket}.>", stream=f"KV_{bucket}", config=config
            )
            left = (await subscription.consumer_info()).num_pending
            while left > 0:
                for message in await subscription.fetch(min(left, 500), timeout=2):
                    left -= 1
                    gone = {"KV-Operation", "Nats-Marker-Reason"} & {*(message.headers or {})}
                    key = message.subject.removeprefix(f"$KV.{bucket}.")
                    value = None if gone else message.data
                    found.apply(key, message.metadata.sequence.stream, value)
            return found
    finally:
        await client.close()
    return View()


async def settled(url: str, shards: int, replicas: int, but: frozenset[str] = frozenset()) -> View:
    """Wait until each shard is live on as many nodes as it is to be, and on no other; return the view."""
    until = anyio.current_time() + 120
    with anyio.fail_after(150):
        while True:
            found = await view(url)
            copies = min(replicas, len({*found.members} - but))
            owners = [[*found.owned(shard)] for shard in range(shards)]
            if copies and all(
                len(of_shard) == copies and all(slot.owner.phase == "live" for _, slot in of_shard)
                for of_shard in owners
            ):
                return found
            assert anyio.current_time() < until, (found.members, dict(enumerate(owners)))
            await anyio.sleep(0.2)


async def until(url: str, holds: Callable[[View], bool], seconds: float = 120) -> View:
    """Wait until the bucket says what is expected; return the view."""
    with anyio.fail_after(seconds):
        while not holds(found := await view(url)):  # noqa: ASYNC110 another process writes it
            await anyio.sleep(0.1)
    return found


# ---------------------------------------------------------------------------------------- the messages


@define(eq=False)
class Published:
    """What the messages of a stream have, without a merge."""

    trades: dict[str, dict[int, Trade]] = Factory(dict)  #: by symbol and id
    gaps: list[Gap] = Factory(list)
    stale: int = 0  #: messages with a lower fence
    repeated: int = 0  #: events of a run that came twice: there must be none
    out_of_order: int = 0  #: live trades before an earlier one, in one slot under one fence
    fences: dict[tuple[str, str], list[int]] = Factory(dict)


async def published(url: str, stream: str = "tapeloom") -> Published:
    """Read a stream from its beginning to its end."""
    found = Published()
    client = await nats.connect(url)
    try:
        context = client.jetstream()
        config = ConsumerConfig(ack_policy=AckPolicy.NONE)
        subscription = await context.pull_subscribe(">", stream=stream, config=config)
        left = (await subscription.consumer_info()).num_pending
        reader = MessageReader()
        last: dict[Any, int] = {}
        numbers: dict[Any, int] = {}
        while left:
            for message in await subscription.fetch(min(left, 500), timeout=5):
                left -= 1
                _add(found, message, reader, last, numbers)
    finally:
        await client.close()
    return found


def _add(
    found: Published,
    message: Any,
    reader: MessageReader,
    last: dict[Any, int],
    numbers: dict[Any, int],
) -> None:
    header = parse_header(message.headers)
    _, _, shard, slot = message.subject.split(".")
    assert (str(header.slot), bool(header.node)) == (slot, True)
    fences = found.fences.setdefault((shard, slot), [])
    if fences and header.fence < fences[-1]:
        found.stale += 1
        return
    if not fences or header.fence > fences[-1]:
        fences.append(header.fence)
    for number, event in reader.read(message.subject, message.headers, message.data):
        run = shard, slot, header.epoch
        found.repeated += number <= numbers.get(run, 0)
        numbers[run] = number
        if isinstance(event, Gap):
            found.gaps.append(event)
        elif isinstance(event, Trade):
            assert isinstance(event.id, int)
            found.trades.setdefault(event.symbol, {})[event.id] = event
            key = event.symbol, slot, header.fence
            if event.origin == "live":
                found.out_of_order += event.id < last.get(key, 0)
                last[key] = event.id


def run(main: Any) -> Any:
    """Run a coroutine on asyncio."""
    return asyncio.run(main)
