"""Reads the files back without the code that wrote them."""

from __future__ import annotations

import gzip
import json
import re
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_OPENERS = {".gz": gzip.decompress, ".zst": zstd.decompress}
_CELL = re.compile(r'("(?:[^"]|"")*"|[^,"\n]*)(,|\n)')


def content(path: Path) -> str:
    """Return the text of a file, which may be compressed."""
    return _OPENERS.get(path.suffix, bytes)(path.read_bytes()).decode()


def stored(folder: Path) -> list[dict[str, Any]]:
    """Return the fields of all events, in the order of their runs and numbers."""
    paths = sorted(path for path in folder.glob("*") if path.is_file())
    lines = [json.loads(line) for path in paths if ".jsonl" in path.name
             for line in content(path).splitlines()]  # fmt: skip
    rows = [row for path in paths if ".csv" in path.name for row in csv_rows(path)]
    return lines + sorted(rows, key=lambda row: (row["epoch"], row["n"]))


def csv_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a CSV file: a quoted cell is a text, an empty one is None."""
    table: list[list[Any]] = [[]]
    text = content(path)
    position = 0
    while position < len(text):
        match = _CELL.match(text, position)
        assert match, text[position : position + 50]
        table[-1].append(_value(match[1]))
        position = match.end()
        if match[2] == "\n":
            table.append([])
    names, *rows = table[:-1]
    kind = path.name.split(".")[0]
    return [_event({"type": kind, **dict(zip(names, row, strict=True))}) for row in rows]


def _value(cell: str) -> Any:
    if cell.startswith('"'):
        return cell[1:-1].replace('""', '"')
    if cell in ("true", "false"):
        return cell == "true"
    return int(cell) if re.fullmatch(r"-?\d+", cell) else cell or None


def _event(row: dict[str, Any]) -> dict[str, Any]:
    for name in ("raw_bids", "raw_asks", "event"):
        if isinstance(row.get(name), str):
            row[name] = json.loads(row[name])
    return row
