"""The venues of a soak: in this process, or in one of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import structlog
import tapeloom_chaos as chaos
import tapeloom_simulator as simulator
from soak.places import PLACES, RATE, Place, faults_of, on_messages, on_numbered, on_wire
from tapeloom import Network, Stack


def symbols_of(venue: str, places: Sequence[Place]) -> list[str]:
    return [symbol for place in places if place.venue == venue for symbol in place.symbols]


@asynccontextmanager
async def venues(
    places: Sequence[Place], folder: Path, seed: int, until: float, epoch: int, scale: float = 1
) -> AsyncIterator[dict[str, Any]]:
    """Simulate the venues, and put relays before them; yield what a stack needs to find them.

    The truth is written to files: it would outgrow the memory.
    """
    async with AsyncExitStack() as exits:
        tables: dict[str, Any] = {}
        for venue in dict.fromkeys(place.venue for place in places):
            symbols = symbols_of(venue, places)
            sim = await exits.enter_async_context(
                simulator.serve(
                    venue, symbols=symbols, seed=seed, rate=RATE * len(symbols), epoch=epoch,
                    faults=faults_of(venue, symbols, seed, until), depth=60,
                    truth=folder / f"{venue}.jsonl", keep=False, time_scale=scale,
                )
            )  # fmt: skip
            tables[venue] = sim.settings
        spoiled = {"seed": seed, **on_wire(until)}
        proxy = await exits.enter_async_context(chaos.relay(**spoiled))
        relays = {"proxy": proxy}
        if "ib" in tables:
            to = f"{tables['ib']['host']}:{tables['ib']['port']}"
            relays["ib"] = await exits.enter_async_context(chaos.relay(to=to, **spoiled))
            tables["ib"] = {**tables["ib"], "port": relays["ib"].port}
        yield {"tables": tables, "proxy": proxy.url, "epoch": epoch}
        done = {
            name: Counter(one.fault for one in relay.injected) for name, relay in relays.items()
        }
        (folder / "relays.json").write_text(json.dumps(done))


def serve(folder: Path, seed: int, until: float) -> None:
    """Simulate the venues in this process until its standard input ends."""

    async def run() -> None:
        async with venues(PLACES, folder, seed, until, time.time_ns()) as found:
            print(json.dumps(found), flush=True)
            await anyio.to_thread.run_sync(sys.stdin.read)

    anyio.run(run)


@contextmanager
def elsewhere(folder: Path, seed: int, until: float) -> Iterator[dict[str, Any]]:
    """Simulate the venues in a process of their own."""
    command = [sys.executable, "-m", "soak.venues", str(folder), str(seed), str(until)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            yield json.loads(child.stdout.readline())
        finally:
            child.stdin.close()
            child.wait(30)


def stack_of(places: Sequence[Place], found: Mapping[str, Any], seed: int, until: float) -> Stack:
    tables = {venue: dict(table) for venue, table in found["tables"].items()}
    for place in places:
        tables[place.venue] |= place.settings
    return Stack(
        feeds=tuple(place.feed for place in places),
        venues=tables,
        stages={
            "named": {"use": "chaos", "seed": seed, **on_messages(until)},
            "numbered": {"use": "chaos", "seed": seed, **on_numbered(until)},
            "bars": {"every": ["1s", "1m"]},
        },
        network=Network(proxy=found["proxy"]),
    )


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    serve(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
