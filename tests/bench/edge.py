"""What a sink that publishes to NATS costs the process that receives a venue.

    python tests/bench/edge.py [--rate 0] [--symbols 200] [--turns 5] [--seconds 6]

Streams without and with the sink take turns in one process, so that whatever else the machine does meets
both. Each one reads the frames of a process that sends at a fixed pace, or as fast as they are read with
`--rate 0`, parses them, and runs the stage quality. The first second of a turn is not counted. Printed are
trades a second, the CPU time of the whole process for a trade, and at the end the medians of both and of the ratios of neighbouring turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import tapeloom
from attrs import frozen
from tapeloom import Trade
from tapeloom_testing.services import NatsServer

sys.path.insert(0, str(Path(__file__).parent))
import frames


@frozen
class Turn:
    """What was measured of one stream."""

    trades: int
    seconds: float
    cpu: float  #: µs a trade


async def turn(url: str, symbols: int, seconds: float, nats: str, gc: int) -> Turn:
    """Stream for so many seconds, with the sink if *nats* is the URL of a server."""
    feed = {
        "venue": "binance", "market": "spot", "channels": ["trades"],
        "symbols": frames.unified(symbols), "stages": ["quality"],
    }  # fmt: skip
    stack: dict[str, Any] = {"feed": [feed], "venue": {"binance": {"base_url": url}}}
    stack["process"] = {"gc_threshold": gc}
    if nats:
        name = f"turn{time.time_ns()}"  # of its own: nothing is continued where it stood
        stack["sink"] = [
            {
                "use": "nats", "servers": nats, "stream": name, "prefix": name,
                "queue": {"policy": "block", "size": 20_000},
            }
        ]  # fmt: skip
    trades = began = warm = cpu = since = 0.0
    async with tapeloom.open(stack) as stream:
        with anyio.move_on_after(seconds + 30):
            async for batch in stream.batches(Trade):
                now = time.monotonic()
                if not began:
                    began, warm = now, now + 1.0
                elif cpu:
                    trades += len(batch)
                    if now - began >= seconds:
                        break
                elif now >= warm:
                    cpu, since = time.process_time(), now
        cpu, lasted = time.process_time() - cpu, time.monotonic() - since
        stream.stop()
    return Turn(int(trades), lasted, cpu / trades * 1e6)


def main() -> int:
    """Print each turn, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=0)
    parser.add_argument("--symbols", type=int, default=200)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--gc", type=int, default=50_000)
    given = parser.parse_args()
    server = Path(__file__).with_name("firehose.py")
    count = round((given.rate or 400_000) * (given.seconds + 2))
    command = [
        sys.executable, str(server), "--count", str(count), "--symbols", str(given.symbols),
        *(["--rate", str(given.rate)] if given.rate else []),
    ]  # fmt: skip
    sender = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pairs: list[tuple[Turn, Turn]] = []
    try:
        assert sender.stdout is not None
        url = json.loads(sender.stdout.readline())["url"].replace("ws://", "http://")
        with NatsServer() as nats:
            for _ in range(given.turns):
                pair = []
                for name, to in (("without", ""), ("with", nats.url)):
                    took = anyio.run(turn, url, given.symbols, given.seconds, to, given.gc)
                    pair.append(took)
                    print(
                        f"{name:8} {took.trades / took.seconds:8,.0f} trades/s"
                        f"  {took.cpu:6.2f} µs CPU a trade", flush=True,
                    )  # fmt: skip
                pairs.append((pair[0], pair[1]))
    finally:
        sender.kill()
        sender.wait()
    for name, index in (("without", 0), ("with", 1)):
        print(f"{name:8} {statistics.median(pair[index].cpu for pair in pairs):.2f} µs")
    ratios = [b.cpu / a.cpu for a, b in pairs]
    print(f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
