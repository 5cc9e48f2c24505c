"""Measures a stack cut in two: ``python plugins/nats/tests/speed_across.py [SECONDS]``.

One process streams simulated trades of 200 symbols and publishes them, one reads them back, and a server
stands between them, all on two cores. Printed are trades a second at the reader, the CPU time per trade on
each side, and, at 5,000 trades a second, the time from the publisher to the reader.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from random import Random
from statistics import quantiles
from typing import Any

import tapeloom
from tapeloom import Registry, Trade
from tapeloom.hooks import hookimpl
from tapeloom.plugin import TradeBatch
from tapeloom_testing.services import NatsServer

SYMBOLS = [f"COIN{n}/USDT" for n in range(200)]
BATCH = 64
#: Of both processes, with and without the edge: events wait in queues under full load, and Python's default
#: has the garbage collector visit them, and all modules, again and again.
PROCESS = {"gc_threshold": 50_000}


class Pump:
    """A source of trades of 200 symbols, 64 a read; *rate* trades a second, 0 for as many as possible."""

    backends = frozenset({"asyncio"})
    channels = frozenset({"trades"})
    resumes = True

    def __init__(self, rate: int, seconds: float) -> None:
        self.rate, self.seconds = rate, seconds
        self.sent = 0
        self.cpu_before = 0.0  #: CPU seconds until the first trade: imports and connecting

    async def run(self, deliver: Any) -> None:
        rng = Random(1)
        prices = [Decimal(f"{rng.randrange(1, 99999)}.{rng.randrange(10, 99)}") for _ in range(997)]
        sizes = [Decimal(f"0.{rng.randrange(10000, 99999)}") for _ in range(991)]
        self.cpu_before = time.process_time()
        end = time.monotonic() + self.seconds
        began, number = time.monotonic(), 0
        while time.monotonic() < end:
            now = time.time_ns()
            batch = TradeBatch(
                (
                    Trade(
                        "pump",
                        SYMBOLS[n % 200],
                        now,
                        now,
                        prices[n % 997],
                        sizes[n % 991],
                        "buy",
                        n,
                    )
                    for n in range(number, number + BATCH)
                ),
                (n % 200 for n in range(number, number + BATCH)),
            )
            number += BATCH
            self.sent = number
            await deliver(batch)
            if self.rate:
                ahead = number / self.rate - (time.monotonic() - began)
                await asyncio.sleep(max(ahead, 0))
            elif not number % (BATCH * 16):
                await asyncio.sleep(0)

    def symbols_changed(self) -> None:
        pass


class PumpPlugin:
    def __init__(self, pump: Pump) -> None:
        self.pump = pump

    @hookimpl
    def connect(self, feed: Any) -> Pump:
        return self.pump


async def write(url: str, rate: int, seconds: float, published: bool) -> None:
    pump = Pump(rate, seconds)
    registry = Registry()
    registry.register(PumpPlugin(pump), "pump")
    stack: dict[str, Any] = {
        "process": PROCESS,
        "feed": [{"venue": "pump", "symbols": SYMBOLS, "channels": ["trades"]}],
    }
    if published:
        stack["sink"] = [
            {
                "use": "nats", "servers": url,
                "queue": {"policy": "block", "size": 8_192},
            }
        ]  # fmt: skip
    async with tapeloom.open(stack, registry=registry) as stream:
        await stream.run()
    cpu = time.process_time() - pump.cpu_before
    print(json.dumps({"sent": pump.sent, "cpu": cpu}), flush=True)


async def read(url: str, count: int, ready: Path) -> None:
    stack = {
        "process": PROCESS, "feed": [{"venue": "nats"}],
        "venue": {"nats": {"servers": url, "start": "now"}},
    }  # fmt: skip
    got, times, first, last = 0, [], 0.0, 0.0
    async with tapeloom.open(stack) as stream:
        consumer = stream.consume(Trade)
        source: Any = stream.plans[0].source
        while source._state is None:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.05)
        await asyncio.to_thread(ready.touch)
        before = time.process_time()  # without imports and connecting
        idle = 0
        while got < count or not count:
            try:
                batch = await asyncio.wait_for(consumer.batch(), 3.0)
            except TimeoutError:
                if got:
                    break
                idle += 1
                if idle > 10:
                    break
                continue
            now = time.time_ns()
            if not got:
                first = time.monotonic()
            got += len(batch)
            times.append((now - batch[-1].recv) / 1e6)
            last = time.monotonic()
    cpu = time.process_time() - before
    cuts = quantiles(times, n=100) if len(times) > 1 else [0.0] * 99
    print(
        json.dumps(
            {
                "got": got, "seconds": last - first, "cpu": cpu, "p50": cuts[49], "p99": cuts[98],
            }
        ),
        flush=True,
    )  # fmt: skip


def processes(url: str, rate: int, seconds: float, folder: Path) -> tuple[Any, Any]:
    ready = folder / f"ready-{rate}"
    command = [sys.executable, __file__]
    # So that there is a stream when the reader starts.
    first = [*command, "write", url, "640", "0.2", "1"]
    subprocess.run(first, capture_output=True, check=True)
    reader = subprocess.Popen(
        [*command, "read", url, str(ready)], stdout=subprocess.PIPE, text=True
    )
    while not ready.exists():
        time.sleep(0.05)
    writer = subprocess.Popen(
        [*command, "write", url, str(rate), str(seconds), "1"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    sent = json.loads(writer.communicate()[0].splitlines()[-1])
    got = json.loads(reader.communicate()[0].splitlines()[-1])
    return sent, got


def main(seconds: float) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    alone = subprocess.run(
        [sys.executable, __file__, "write", "-", "0", str(seconds / 2), "0"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    bare = json.loads(alone.splitlines()[-1])
    print(f"without the edge: {bare['cpu'] / bare['sent'] * 1e6:.2f} µs of CPU a trade")
    for rate in (0, 5000):
        with NatsServer() as server:
            sent, got = processes(server.url, rate, seconds, server.folder)
        print(
            f"{'as fast as possible' if not rate else f'{rate} a second'}: sent {sent['sent']},"
            f" read {got['got']} in {got['seconds']:.1f} s ="
            f" {got['got'] / got['seconds']:,.0f} trades/s;"
            f" ingest {sent['cpu'] / sent['sent'] * 1e6:.2f} µs, reader"
            f" {got['cpu'] / got['got'] * 1e6:.2f} µs of CPU a trade;"
            f" from publisher to reader p50 {got['p50']:.2f} ms, p99 {got['p99']:.2f} ms"
        )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", url, rate, length, published]:
            asyncio.run(write(url, int(rate), float(length), published == "1"))
        case ["read", url, ready]:
            asyncio.run(read(url, 0, Path(ready)))
        case given:
            main(float(given[0]) if given else 10.0)
