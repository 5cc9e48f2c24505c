"""Writes what the screen shows to files: the table of symbols as CSV, the gap ledger as JSON lines."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tapeloom import encode
from tapeloom_screens import GapEntry, SymbolRow

__all__ = ["export"]

_FIELDS = (
    "venue", "symbol", "last", "bid", "ask", "spread", "trades", "events", "trade_rate", "event_rate",
    "lag_p50", "lag_p99", "staleness", "gaps", "rejects",
)  # fmt: skip


def export(
    folder: Path, now: int, rows: Sequence[SymbolRow], gaps: Sequence[GapEntry]
) -> tuple[Path, Path]:
    """Write two files named by the time *now*, in ns; return their paths. Raises OSError.

    Times and durations are in ns. A gap is the event itself, as ``tapeloom run --out jsonl`` writes it.
    """
    name = f"tapeloom-{datetime.fromtimestamp(now / 1e9, UTC):%Y%m%dT%H%M%SZ}"
    table, ledger = folder / f"{name}.symbols.csv", folder / f"{name}.gaps.jsonl"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_FIELDS)
        writer.writerows([[getattr(row, field) for field in _FIELDS] for row in rows])
    text = "".join(f"{encode(entry.gap)}\n" for entry in gaps)
    ledger.write_text(text, encoding="utf-8")
    return table, ledger
