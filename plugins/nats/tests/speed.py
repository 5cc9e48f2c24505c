"""Measures the sink beside bare nats-py: ``python plugins/nats/tests/speed.py``.

The floor is bare nats-py that does the same: it encodes the trades of each message, which are grouped
already, publishes them with one header, without waiting between those of a batch, and counts the
acknowledgements. Both take turns in one run, five times; the medians are printed, by the clock, and by the
CPU time of this process, which other programs on the machine delay less. "with positions" includes
what core does for them, at each checkpoint.
"""

from __future__ import annotations

import asyncio
import gc
import time
from decimal import Decimal
from functools import partial
from random import Random
from statistics import median

import nats
from tapeloom._stream.sinks.checkpoints import Checkpoints
from tapeloom._stream.sinks.positions import Positions
from tapeloom.events import Trade
from tapeloom.plugin import SinkBatch, SinkRun
from tapeloom_nats import Settings
from tapeloom_nats.columns import pack
from tapeloom_nats.messages import shard_of
from tapeloom_nats.sink import NatsSink
from tapeloom_testing.services import NatsServer

ROUNDS, SECONDS = 5, 0.6
#: Trades a second: of the clock, and of CPU.
Rates = tuple[float, float]
#: Shards, and trades in a batch: with 64 or 4 trades a message.
CASES = {
    "1 shard, 4096 a message": (1, 4096),
    "64 a message": (64, 4096),
    "4 a message": (256, 1024),
}


def trades(count: int, rng: Random) -> list[Trade]:
    return [
        Trade(
            "binance", f"COIN{rng.randrange(2000)}/USDT", 1_700_000_000_000_000_000 + n * 1_000_000,
            1_700_000_000_000_000_500 + n * 1_000_000, Decimal(f"{rng.randrange(99999)}.{n % 90 + 10}"),
            Decimal(f"0.{rng.randrange(10000, 99999)}"), "buy", 10**9 + n,
        )
        for n in range(count)
    ]  # fmt: skip


class Stopwatch:
    """Measures what is between `start` and `stop`, by the clock and by the CPU time of this process."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def start(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.wall += time.perf_counter() - self._start[0]
        self.cpu += time.process_time() - self._start[1]


def later(events: list[Trade]) -> list[Trade]:
    """Return new trades like *events*, with the next ids and times."""
    count = len(events)
    return [
        Trade(
            event.venue, event.symbol, event.ts + count * 1_000_000, event.recv + count * 1_000_000,
            event.price, event.size, event.side, event.id + count,
        )
        for event in events
    ]  # fmt: skip


def by_shard(events: list[Trade], shards: int) -> list[list[Trade]]:
    found: dict[str, list[Trade]] = {}
    for event in events:
        found.setdefault(shard_of(event.venue, event.symbol, shards), []).append(event)
    return list(found.values())


async def floor(url: str, name: str, shards: int, events: list[Trade]) -> Rates:
    client = await nats.connect(url)
    await client.jetstream().add_stream(name=name, subjects=[f"{name}.>"])
    inbox, acknowledged, done = client.new_inbox(), 0, asyncio.Event()
    parts: list[list[Trade]] = []

    async def on_reply(_: object) -> None:
        nonlocal acknowledged
        acknowledged += 1
        if acknowledged % len(parts) == 0:
            done.set()

    await client.subscribe(f"{inbox}.*", cb=on_reply)
    watch, written = Stopwatch(), 0
    while watch.wall < SECONDS:
        events = later(events)
        parts = by_shard(events, shards)
        done.clear()
        watch.start()
        for index, part in enumerate(parts):
            body = pack(part)
            await client.publish(
                f"{name}.{index}", body, f"{inbox}.{index}", {"Tapeloom": "x" * 120}
            )
        await done.wait()
        watch.stop()
        written += len(events)
    await client.close()
    return written / watch.wall, written / watch.cpu


async def sink(
    url: str, name: str, shards: int, events: list[Trade], *, has_positions: bool
) -> Rates:
    tested = NatsSink(Settings(servers=url, stream=name, prefix=name, shards=shards))
    await tested.open(SinkRun("sink", 1))
    checkpoints, number, watch = Checkpoints(Positions()), 1, Stopwatch()
    while watch.wall < SECONDS:
        events = later(events)
        watch.start()
        if has_positions:
            checkpoint = partial(checkpoints.texts_after, events)
            await tested.write(SinkBatch(1, number, events, {}, checkpoint))
            checkpoints.add(events)
        else:
            await tested.write(SinkBatch(1, number, events))
        watch.stop()
        number += len(events)
    await tested.close()
    return (number - 1) / watch.wall, (number - 1) / watch.cpu


def main() -> None:
    rng = Random(1)
    gc.freeze()
    gc.set_threshold(50_000)  # as `gc_threshold`: it would run in the turns of one or the other
    for label, (shards, count) in CASES.items():
        events = trades(count, rng)
        parts = by_shard(events, shards)
        measured: dict[str, list[Rates]] = {"floor": [], "sink": [], "with positions": []}
        with NatsServer() as server:
            for turn in range(ROUNDS):
                names = [f"{kind}{turn}" for kind in "abc"]
                measured["floor"].append(asyncio.run(floor(server.url, names[0], shards, events)))
                for kind, name in (("sink", names[1]), ("with positions", names[2])):
                    run = sink(server.url, name, shards, events, has_positions=kind != "sink")
                    measured[kind].append(asyncio.run(run))
        print(
            f"{label}: {len(parts)} messages a batch, {sum(len(pack(part)) for part in parts) / count:.0f} bytes a trade"
        )
        for index, clock in enumerate(("wall", "CPU")):
            base = median(rates[index] for rates in measured["floor"])
            for kind, turns in measured.items():
                rate = median(rates[index] for rates in turns)
                print(f"  {kind:15} {clock} {rate:>9,.0f} trades/s  {rate / base:.2f} of the floor")


if __name__ == "__main__":
    main()
