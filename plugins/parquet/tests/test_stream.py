"""A whole stream into files: a replay twice, and the settings in a stack."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest
import tapeloom
from tapeloom import FeedSpec, SinkSpec, Stack, StageSpec

from .duckdb_rows import rows

pytest.importorskip("tapeloom_bars")
pytest.importorskip("tapeloom_binance")
pytest.importorskip("tapeloom_quality")

START = 1_700_000_000_000  # ms


def record(path: Path) -> None:
    """Write a tape of 40 trades, of which one is missing, two are equal but for their ids, and one is late."""
    with path.open("w") as tape:
        for n in range(1, 41):
            if n == 20:
                continue
            ms = START + (n - 1 if n == 31 else n - 8 if n == 35 else n) * 100
            trade = {
                "e": "trade", "E": ms, "s": "BTCUSDT", "t": n, "p": "42000.10", "q": "0.5", "T": ms,
                "m": False,
            }  # fmt: skip
            frame = json.dumps({"stream": "btcusdt@trade", "data": trade}, separators=(",", ":"))
            tape.write(json.dumps({"ts": (START + n * 100) / 1000, "frame": frame}) + "\n")


async def replay(tape: Path, data: Path) -> None:
    stack = Stack(
        feeds=[
            FeedSpec("binance", ["BTC/USDT"], ["trades"], market="spot", stages=["quality", "bars"])
        ],
        stages={"bars": StageSpec("bars", table={"every": "1s"})},
        sinks=[SinkSpec("parquet", table={"path": str(data)}, spool_folder=str(data / "spool"))],
    )
    async with tapeloom.replay(tape, stack) as stream:
        await stream.run()


def test_a_tape_replayed_twice_is_stored_once(tmp_path: Path) -> None:
    tape, data = tmp_path / "day.ws.jsonl", tmp_path / "data"
    record(tape)
    anyio.run(replay, tape, data)
    first = rows(data)
    anyio.run(replay, tape, data)

    assert [row["id"] for row in first if row["type"] == "trade"] == [
        n for n in range(1, 41) if n != 20
    ]
    assert {row["type"] for row in first} >= {"trade", "bar", "gap"}
    assert [row["n"] for row in first] == list(range(1, len(first) + 1))
    assert rows(data) == first
