"""Reads a dataset with DuckDB alone, which shares no code with the sink."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb

DATABASE = duckdb.connect()


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the fields of all events, in the order of their runs and numbers."""
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob("type=*")):
        if any(path.glob("*/*/*.parquet")):
            found += _rows_of_type(path)
    return sorted(found, key=lambda row: (row["epoch"], row["n"]))


def _rows_of_type(path: Path) -> list[dict[str, Any]]:
    files = f"read_parquet('{path}/*/*/*.parquet', hive_partitioning = true, union_by_name = true)"
    with DATABASE.cursor() as connection:
        kinds = connection.sql(f"SELECT * FROM {files}")
        selected = ", ".join(
            f'epoch_ns("{name}") AS "{name}"' if "TIMESTAMP" in str(kind) else f'"{name}"'
            for name, kind in zip(kinds.columns, kinds.types, strict=True)
        )
        relation = connection.sql(f"SELECT {selected} FROM {files}")
        names = relation.columns
        return [_event(dict(zip(names, row, strict=True))) for row in relation.fetchall()]


def _event(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with numbers as ids where the venue had numbers, and with pairs as levels."""
    for text, number in (("id", "seq"), ("after_id", "after_seq"), ("before_id", "before_seq")):
        if row.get(number) is not None:
            row[text] = row[number]
    for side in ("raw_bids", "raw_asks"):
        if side in row:
            row[side] = [(level["price"], level["size"]) for level in row[side]]
    if isinstance(row.get("event"), str):
        row["event"] = json.loads(row["event"])
    return row
