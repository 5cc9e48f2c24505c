"""Simulated venues in a process of their own, on this machine's clock, and the truth that they write down."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import structlog
import tapeloom_simulator as simulator
from attrs import define
from cluster_ledger import Market
from cluster_readers import TrueTrades
from tapeloom_simulator import TruthFile


@define(eq=False)
class Venues:
    """Venues that run elsewhere."""

    folder: Path
    markets: Sequence[Market]
    tables: Mapping[str, Mapping[str, Any]]  #: of a stack: where each venue is
    _child: subprocess.Popen[str]

    def stop(self) -> TrueTrades:
        """Stop the venues; return what has happened."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        assert self._child.wait(30) == 0
        files = {venue: TruthFile(self.folder / f"{venue}.jsonl") for venue in self.tables}
        return {
            (market.venue, symbol): files[market.venue].trades(symbol)
            for market in self.markets
            for symbol in market.symbols
        }


@contextmanager
def venues(folder: Path, markets: Sequence[Market], rate: float, seed: int = 1) -> Iterator[Venues]:
    """Simulate the venues of *markets* with *rate* trades a second of each symbol; kill them if they are left."""
    by_venue: dict[str, list[str]] = {}
    for market in markets:
        by_venue.setdefault(market.venue, []).extend(market.symbols)
    task = json.dumps({"folder": str(folder), "venues": by_venue, "rate": rate, "seed": seed})
    with subprocess.Popen(
        [sys.executable, __file__, task], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        try:
            yield Venues(folder, markets, json.loads(child.stdout.readline()), child)
        finally:
            child.kill()


async def _serve(folder: str, venues: Mapping[str, Sequence[str]], rate: float, seed: int) -> None:
    async with AsyncExitStack() as entered:
        tables = {}
        for venue, symbols in venues.items():
            sim = await entered.enter_async_context(
                simulator.serve(
                    venue, symbols=symbols, seed=seed, rate=rate * len(symbols), epoch=None,
                    depth=50, keep=False, truth=Path(folder) / f"{venue}.jsonl",
                )
            )  # fmt: skip
            tables[venue] = sim.settings
        print(json.dumps(tables), flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    anyio.run(lambda: _serve(**json.loads(sys.argv[1])))
