"""Measures the sinks for files against their floors, in turn: ``python tests/bench/parquet.py``.

The floor of Parquet is bare pyarrow: columns from the same trades, without checks, numbers or journal, into
one zstd file. The floor of JSON lines is `json.dumps` of the fields into an open file that is synchronised as
often. Everything is done several times in turn, because other programs share the machine; ratios are medians.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path

import anyio
import pyarrow as pa
import pyarrow.parquet as pq
from tapeloom import Trade
from tapeloom.events import Event
from tapeloom.harness import write_all
from tapeloom_files import FilesSink
from tapeloom_files import Settings as FilesSettings
from tapeloom_parquet import ParquetSink, Settings

BATCH = 4096
EPOCH = 1_700_000_000_000_000_000
TEXTS = ("venue", "symbol", "side", "channel", "origin")


def trades(count: int) -> list[Event]:
    rng = random.Random(1)
    return [
        Trade(
            "binance", rng.choice(("BTC/USDT", "ETH/USDT")), EPOCH + n * 1_000_000, EPOCH + n,
            Decimal(f"{42_000 + rng.random() * 100:.2f}"), Decimal(f"{rng.random():.5f}"),
            rng.choice(("buy", "sell")), n,
        )
        for n in range(count)
    ]  # fmt: skip


def bare_parquet(events: Sequence[Event], folder: Path) -> None:
    number, ts = pa.decimal128(38, 18), pa.timestamp("ns", "UTC")
    writer = None
    for first in range(0, len(events), BATCH):
        batch = events[first : first + BATCH]
        columns = {
            name: pa.array([getattr(e, name) for e in batch]).dictionary_encode() for name in TEXTS
        }
        columns |= {
            name: pa.array([getattr(e, name) for e in batch], ts) for name in ("ts", "recv")
        }
        columns |= {
            name: pa.array([getattr(e, name) for e in batch], number) for name in ("price", "size")
        }
        columns["id"] = pa.array([getattr(e, "id") for e in batch])  # noqa: B009
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(
            folder / "floor.parquet", table.schema, compression="zstd"
        )
        writer.write_table(table)
    assert writer is not None
    writer.close()


def bare_lines(events: Sequence[Event], folder: Path) -> None:
    names = ("venue", "symbol", "ts", "recv", "price", "size", "side", "id", "channel", "origin")
    with (folder / "floor.jsonl").open("w") as file:
        for first in range(0, len(events), BATCH):
            file.writelines(
                json.dumps({name: getattr(e, name) for name in names}, default=str) + "\n"
                for e in events[first : first + BATCH]
            )
            file.flush()
            os.fsync(file.fileno())


def stored(sink: ParquetSink | FilesSink, events: Sequence[Event], folder: Path) -> None:
    """Write as core does: with positions and retries, in a worker thread."""

    async def run() -> None:
        await write_all(sink, events, epoch=EPOCH, folder=folder / "aside", sizes=(BATCH,))

    anyio.run(run)


def to_parquet(events: Sequence[Event], folder: Path) -> None:
    stored(ParquetSink(Settings(path=str(folder / "data"))), events, folder)


def to_lines(events: Sequence[Event], folder: Path) -> None:
    stored(FilesSink(FilesSettings(path=str(folder / "events"))), events, folder)


def measured(
    run: Callable[[Sequence[Event], Path], None], events: Sequence[Event]
) -> tuple[float, float]:
    """Return seconds and seconds of CPU."""
    folder = Path(tempfile.mkdtemp(dir=sys.argv[1] if len(sys.argv) > 1 else None))
    cpu, wall = time.process_time(), time.perf_counter()
    run(events, folder)
    took = time.perf_counter() - wall, time.process_time() - cpu
    shutil.rmtree(folder)
    return took


def main() -> None:
    for name, floor, ours, count in (
        ("parquet", bare_parquet, to_parquet, 1_000_000),
        ("json lines", bare_lines, to_lines, 200_000),
    ):
        events = trades(count)
        for run in (floor, ours):
            measured(run, events[:BATCH])  # imports
        rounds = [(measured(floor, events), measured(ours, events)) for _ in range(5)]
        for label, index in (("wall", 0), ("CPU", 1)):
            bare = statistics.median(base[index] for base, _ in rounds)
            took = statistics.median(own[index] for _, own in rounds)
            best = min(own[index] for _, own in rounds)
            ratio = statistics.median(own[index] / base[index] for base, own in rounds)
            print(
                f"{name} {label}: floor {bare / count * 1e6:.2f} us a trade, ours {took / count * 1e6:.2f}"
                f" (best {best / count * 1e6:.2f}, {count / best:,.0f} trades/s), ratio {ratio:.2f}"
            )


if __name__ == "__main__":
    main()
