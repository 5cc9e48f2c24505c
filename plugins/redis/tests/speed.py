"""Measures the sink beside bare redis-py: ``python plugins/redis/tests/speed.py [PYTHON]``.

PYTHON is that of an environment with cryptofeed, whose writer takes a turn then, too.

The floor is bare redis-py that adds the same lines of JSON, which lie ready, with one pipeline of XADD for each
batch, and keeps nothing else: no number, no positions, no check. All take turns in one run; the medians
are printed, by the clock, and by the CPU time of this process, which other programs on the machine delay
less. "with positions" includes what core does for them.
"""

from __future__ import annotations

import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from random import Random
from statistics import median

import redis
from tapeloom._stream.sinks.positions import Positions, texts
from tapeloom.events import Event, Trade, encode
from tapeloom.plugin import SinkBatch, SinkRun
from tapeloom_redis import Settings
from tapeloom_redis._sink import RedisSink
from tapeloom_testing.services import RedisServer

ROUNDS, SECONDS, BATCH, PEER_TRADES = 5, 1.0, 4096, 20_000
#: Trades a second: of the clock, and of CPU.
Rates = tuple[float, float]


def trades(count: int, rng: Random) -> list[Event]:
    return [
        Trade(
            "binance", rng.choice(("BTC/USDT", "ETH/USDT")), 1_700_000_000_000_000_000 + n * 1_000_000,
            1_700_000_000_000_000_500 + n * 1_000_000, Decimal(f"{rng.randrange(99999)}.{n % 90 + 10}"),
            Decimal(f"0.{rng.randrange(10000, 99999)}"), "buy", 10**9 + n,
        )
        for n in range(count)
    ]  # fmt: skip


def floor(url: str, events: list[Event], turn: int) -> Rates:
    lines = [encode(event).encode() for event in events]
    with redis.Redis.from_url(url) as client:
        start, cpu, written = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - start < SECONDS:
            pipeline = client.pipeline(transaction=False)
            for number, line in enumerate(lines, written + 1):
                pipeline.xadd(f"floor{turn}", {"event": line}, id=f"1-{number}")
            pipeline.execute()
            written += len(events)
        return written / (time.perf_counter() - start), written / (time.process_time() - cpu)


def sink(url: str, events: list[Event], turn: int, *, has_positions: bool) -> Rates:
    tested = RedisSink(Settings(url=url, prefix=f"sink{turn}{has_positions}"))
    tested.open(SinkRun("sink", 1))
    positions, written = Positions(), 0
    start, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - start < SECONDS:
        changed = positions.after(events) if has_positions else {}
        positions.update(changed)
        tested.write(SinkBatch(1, written + 1, events, texts(changed)))
        written += len(events)
    rates = written / (time.perf_counter() - start), written / (time.process_time() - cpu)
    tested.close()
    return rates


def cryptofeed(python: str) -> Rates:
    client = Path(__file__).parents[3] / "tests/bench/clients/cryptofeed_redis.py"
    with RedisServer() as server:
        command = [python, str(client), str(server.port), str(PEER_TRADES)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    wall, cpu = map(float, output.split())
    return PEER_TRADES / wall, PEER_TRADES / cpu


def main() -> None:
    events = trades(BATCH, Random(1))
    measured: dict[str, list[Rates]] = {"floor": [], "sink": [], "with positions": []}
    if sys.argv[1:]:
        measured["cryptofeed"] = []
    with RedisServer() as server:
        for turn in range(ROUNDS):
            measured["floor"].append(floor(server.url, events, turn))
            measured["sink"].append(sink(server.url, events, turn, has_positions=False))
            measured["with positions"].append(sink(server.url, events, turn, has_positions=True))
            if sys.argv[1:]:
                measured["cryptofeed"].append(cryptofeed(sys.argv[1]))
    for index, clock in enumerate(("wall", "CPU")):
        base = median(rates[index] for rates in measured["floor"])
        for kind, turns in measured.items():
            rate = median(rates[index] for rates in turns)
            print(f"{kind:15} {clock} {rate:>9,.0f} trades/s  {rate / base:.2f} of the floor")


if __name__ == "__main__":
    main()
