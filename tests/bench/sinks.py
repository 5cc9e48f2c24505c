"""What a sink costs the stream: CPU time of the event loop, the latency of another consumer, the spool.

    python tests/bench/sinks.py [folder of the spool]

The first part hands a million trades to a sink that does nothing, in batches of 64, and counts the CPU time
of the event loop's thread. The second part delivers 2,000 trades a second and measures how old each is when
another consumer gets it: without a sink, and with one whose store is down and that spools; in turn.
The third part appends trades to a spool, and the same bytes to a bare SQLite database with the same
synchronisation, in turn: what is between the two is the encoding.
"""

from __future__ import annotations

import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import anyio
import tapeloom
from tapeloom import Event, FeedSpec, QueueSpec, Registry, SinkSpec, Stack, Trade
from tapeloom._compose.plan import SinkPlan
from tapeloom._runtime.system_clock import SystemClock
from tapeloom._stream.queues import Queue
from tapeloom._stream.sinks.runner import SinkRunner
from tapeloom._stream.sinks.spool import Spool
from tapeloom._stream.sinks.spool_format import pack
from tapeloom.errors import SinkUnavailable
from tapeloom.hooks import hookimpl
from tapeloom.plugin import Guarantee, Resume, SinkBatch, SinkRun, StreamState

TRADES, BATCH = 1_000_000, 64
SECONDS, RATE, TURNS = 6.0, 2_000, 3
#: Trades that are appended to a spool, and batch sizes.
SPOOLED, SPOOL_BATCHES = 100_000, (64, 256, 4096)


def trade(number: int, recv: int) -> Trade:
    """Return a trade."""
    price, size = Decimal("60000.50"), Decimal("0.00100")
    return Trade("bench", "BTC/USDT", recv, recv, price, size, "buy", number)


class Idle:
    """A sink that does nothing."""

    guarantee: Guarantee = "at_most_once"

    def open(self, run: SinkRun) -> Resume:
        """Open nothing."""
        return Resume()

    def write(self, batch: SinkBatch) -> None:
        """Store nothing."""

    def close(self) -> None:
        """Close nothing."""


class Down(Idle):
    """A sink whose store is down."""

    def open(self, run: SinkRun) -> Resume:
        """Raise SinkUnavailable."""
        raise SinkUnavailable("the server does not answer.")


async def hand_over(with_sink: bool) -> float:
    """Return the CPU time of the event loop's thread, in µs a trade."""
    queue = Queue(QueueSpec(100_000, "block"), None, "bench", has_task=True)
    with tempfile.TemporaryDirectory() as folder:
        spec = SinkSpec("bench", "bench", max_batch_delay=0.0)
        runner = SinkRunner(
            SinkPlan(spec, Idle()),
            queue,
            SystemClock(),
            Random(1),
            Counter(),
            Path(folder),
            lambda: StreamState(0),
        )
        await runner.open(1)
        batches = [[trade(first + n, 1) for n in range(BATCH)] for first in range(0, TRADES, BATCH)]
        began = time.thread_time()
        async with anyio.create_task_group() as tasks:
            if with_sink:
                tasks.start_soon(runner.run, queue.get)
            for batch in batches:
                if with_sink:
                    await queue.put(batch)
                await anyio.lowlevel.checkpoint()
            queue.close()
        took = time.thread_time() - began
        await runner.close()
    return took / TRADES * 1e6


class Market:
    """A source of trades."""

    backends = frozenset({"asyncio", "trio"})
    channels = frozenset({"trades"})
    resumes = False

    async def run(self, deliver: Callable[[list[Event]], Awaitable[None]]) -> None:
        """Deliver trades at a fixed rate."""
        number, pause = 0, 0.01
        began = time.monotonic()
        while True:
            due = round((time.monotonic() - began) * RATE)
            if due > number:
                now = time.time_ns()
                await deliver([trade(n, now) for n in range(number, due)])
                number = due
            await anyio.sleep(pause)

    def symbols_changed(self) -> None:
        """Do nothing: the symbols do not change."""


class Plugin:
    """The plugin of the source and the sink."""

    @hookimpl
    def connect(self, feed: Any) -> Market:
        """Return the source."""
        return Market()

    @hookimpl
    def sink(self, settings: Any) -> Down:
        """Return the sink."""
        return Down()


async def latency(with_sink: bool) -> tuple[float, float]:
    """Return the median and the 99th percentile of the ages of trades, in µs."""
    registry = Registry({})
    registry.register(Plugin(), "bench")
    ages: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        sinks = [SinkSpec("bench", spool="500MB", spool_folder=folder)] if with_sink else []
        stack = Stack(feeds=(FeedSpec("bench", ["BTC/USDT"], ["trades"]),), sinks=tuple(sinks))
        async with tapeloom.open(stack, registry=registry) as stream:
            with anyio.move_on_after(SECONDS):
                async for batch in stream.batches(Trade):
                    now = time.time_ns()
                    ages += [now - event.recv for event in batch]
    percentiles = statistics.quantiles(ages, n=100)
    return percentiles[49] / 1000, percentiles[98] / 1000


def spooled(batches: list[list[Event]], path: Path) -> None:
    """Append batches to a spool."""
    spool = Spool(path, 10**10)
    spool.open(1)
    for batch in batches:
        spool.append(batch)
    spool.close()


def bare(bodies: list[bytes], path: Path) -> None:
    """Insert bytes into a database, each synchronised."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA locking_mode=EXCLUSIVE")
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE batch (first INTEGER PRIMARY KEY, count INTEGER, body BLOB)")
    for number, body in enumerate(bodies):
        database.execute("INSERT INTO batch VALUES (?, ?, ?)", [number, 1, body])
    database.close()


def timed(call: Callable[[Any, Path], None], given: Any) -> tuple[float, float]:
    """Return µs a trade: of the clock, and of CPU."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        wall, cpu = time.perf_counter(), time.thread_time()
        call(given, Path(folder) / "spool")
        took = time.perf_counter() - wall, time.thread_time() - cpu
    return took[0] / SPOOLED * 1e6, took[1] / SPOOLED * 1e6


def spool() -> None:
    """Print the third part."""
    trades: list[Event] = [trade(n, n) for n in range(SPOOLED)]
    for size in SPOOL_BATCHES:
        batches = [trades[first : first + size] for first in range(0, SPOOLED, size)]
        bodies = [pack(batch) for batch in batches]
        rows = [(timed(bare, bodies), timed(spooled, batches)) for _ in range(TURNS)]
        for index, name in enumerate(("wall", "CPU")):
            floor = min(base[index] for base, _ in rows)
            ours = min(own[index] for _, own in rows)
            print(
                f"spool at {size} a batch, {name}: floor {floor:.2f} µs a trade, ours {ours:.2f}"
                f" ({1e6 / ours:,.0f}/s), floor / ours {floor / ours:.2f}"
            )


def main() -> int:
    """Print all parts."""
    costs = [anyio.run(hand_over, True) - anyio.run(hand_over, False) for _ in range(TURNS)]
    print(f"hand-over: {statistics.median(costs):.3f} µs of the loop a trade")
    plain, spooled = [], []
    for _ in range(TURNS):
        plain.append(anyio.run(latency, False))
        spooled.append(anyio.run(latency, True))
    for name, rows in (("no sink", plain), ("store down, spool", spooled)):
        median, high = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{name}: p50 {median:.0f} µs, p99 {high:.0f} µs")
    ratio = statistics.median(row[1] for row in spooled) / statistics.median(
        row[1] for row in plain
    )
    print(f"p99 with the sink: {ratio:.2f} of that without")
    spool()
    return 0


if __name__ == "__main__":
    sys.exit(main())
