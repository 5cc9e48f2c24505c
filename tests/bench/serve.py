"""What the server of `tapeloom-serve` costs the stream: its thread's CPU time, and the latency of a consumer.

    python tests/bench/serve.py
    python tests/bench/serve.py --rate 50000 --seconds 10 --turns 5

A source parses a venue's frames every millisecond and delivers the trades; the stages are `quality` and
`bars`. A consumer receives them: without a server, with a server that nobody uses, with clients that read all,
and with ten more that never read. In turn, each in a process of its own; the clients have another process.
Medians of the turns are printed: CPU time of the thread of the stream's event loop and of the whole process,
in µs a trade, and the latency from the due time of a batch to its consumer.
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import tapeloom
from tapeloom import Event, Registry, Trade
from tapeloom.harness import compose_feed
from tapeloom.hooks import hookimpl
from tapeloom.plugin import Frames

sys.path.insert(0, str(Path(__file__).parent))
import frames

#: Variants: whether there is a server, how many clients read all, and how many never read.
VARIANTS = {
    "no server": (False, 0, 0),
    "server": (True, 0, 0),
    "server, 4 clients": (True, 4, 0),
    "server, 4 clients, 10 that never read": (True, 4, 10),
}
SYMBOLS = tuple(frames.unified(10))
_TICK_NS = 1_000_000
#: Ticks at the beginning that are not counted.
_WARM_UP = 1000


class Paced:
    """A source that parses and delivers the same number of trades every millisecond."""

    backends = frozenset({"asyncio"})
    channels = frozenset({"trades"})
    resumes = True

    def __init__(self, rate: int, seconds: float) -> None:
        count = int(rate * seconds)
        start = time.time_ns() // 1_000_000 - count * 2
        payloads = [
            frames.trade(found)
            for found in frames.synthetic_trades(count, len(SYMBOLS), start=start)
        ]
        size = rate // 1000
        self.batches = [payloads[n : n + size] for n in range(0, count, size)]
        spec = tapeloom.FeedSpec("binance", SYMBOLS, ("trades",), market="spot")
        self._parse = compose_feed(tapeloom.Stack(feeds=(spec,)), seed=None).parse
        self.due: list[int] = []  #: when each batch was due, in ns of `perf_counter_ns`

    async def run(self, deliver: Callable[[list[Event]], Awaitable[None]]) -> None:
        """Deliver all batches, each when it is due or as soon as possible after it."""
        began = time.perf_counter_ns() + 500_000_000
        for number, payloads in enumerate(self.batches):
            due = began + number * _TICK_NS
            wait = due - time.perf_counter_ns()
            await anyio.sleep(max(wait, 0) / 1e9)
            self.due.append(due)
            await deliver(list(self._parse(Frames(payloads, time.time_ns()))))

    def symbols_changed(self) -> None:
        """Do nothing: the symbols do not change."""


async def measure(rate: int, seconds: float, port: int, *, served: bool) -> dict[str, float]:
    """Stream for some seconds and return what it took."""
    source = Paced(rate, seconds)

    class Plugin:
        @hookimpl
        def connect(self, feed: Any) -> Paced:
            return source

    registry = Registry()
    registry.register(Plugin(), "paced")
    tables: dict[str, Any] = {
        "feed": [
            {
                "venue": "paced",
                "symbols": SYMBOLS,
                "channels": ["trades"],
                "stages": ["quality", "bars"],
            }
        ],
        "stage": {"bars": {"every": "1m"}},
        "sink": [{"use": "serve", "port": port}] if served else [],
    }
    late, seen, count = array("q"), 0, len(source.batches) * (rate // 1000)
    async with tapeloom.open(tables, registry=registry) as stream:
        cpu, process, warm = 0.0, 0.0, _WARM_UP * (rate // 1000)
        async for batch in stream.consume(Trade, policy="block").batches():
            now = time.perf_counter_ns()
            if seen < warm <= seen + len(batch):
                cpu, process = time.thread_time(), time.process_time()
            if seen >= warm:
                late.append(now - source.due[seen // (rate // 1000)])
            seen += len(batch)
            if seen >= count:
                break
        cpu, process = time.thread_time() - cpu, time.process_time() - process
        dropped = stream.counters["dropped"]
    ordered = sorted(late)
    return {
        "thread_us": cpu / (count - warm) * 1e6,
        "process_us": process / (count - warm) * 1e6,
        "p50_us": ordered[len(ordered) // 2] / 1000,
        "p90_us": ordered[len(ordered) * 90 // 100] / 1000,
        "p99_us": ordered[len(ordered) * 99 // 100] / 1000,
        "dropped": dropped,
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def be_client(port: int, *, reading: bool) -> None:
    """Connect as soon as there is a server, and read as fast as possible, or never."""
    request = (
        f"GET /stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(request.encode())
                while not reading:
                    time.sleep(60)
                while connection.recv(1 << 20):
                    pass
        except OSError:
            time.sleep(0.05)


def be_clients(port: int, readers: int, others: int) -> None:
    """Run clients until the input ends."""
    for number in range(readers + others):
        threading.Thread(
            target=be_client, args=(port,), kwargs={"reading": number < readers}, daemon=True
        ).start()
    sys.stdin.read()


def run(variant: str, rate: int, seconds: float) -> dict[str, float]:
    """Measure a variant once."""
    served, readers, others = VARIANTS[variant]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    crowd = [sys.executable, __file__, "--clients", port, str(readers), str(others)]
    words = [sys.executable, __file__, "--measure", port, str(int(served))]
    words += ["--rate", str(rate), "--seconds", str(seconds)]
    with subprocess.Popen(crowd, stdin=subprocess.PIPE) as users:
        assert users.stdin is not None
        done = subprocess.run(words, capture_output=True, text=True, timeout=300)
        users.stdin.close()
    if done.returncode:
        sys.exit(done.stderr)
    row: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    """Measure every variant in turn and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=50_000, help="trades a second")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--measure", nargs=2, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--clients", nargs=3, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.clients:
        be_clients(*given.clients)
        return
    if given.measure:
        port, served = given.measure
        row = anyio.run(lambda: measure(given.rate, given.seconds, port, served=bool(served)))
        print(json.dumps(row))
        return
    rows: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(given.turns):
        for variant in VARIANTS:
            rows[variant].append(run(variant, given.rate, given.seconds))
    for variant, found in rows.items():
        figures = {name: statistics.median(row[name] for row in found) for name in found[0]}
        print(f"{variant:40}", {name: round(figure, 2) for name, figure in figures.items()})


if __name__ == "__main__":
    main()
