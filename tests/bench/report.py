"""Figures for a person: as text in the terminal, as a table and a chart in the documentation."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from pathlib import Path

import chart
from tables import Table

__all__ = ["text", "write"]

DOCS = Path(__file__).parents[2] / "docs/explanation"
PAGE = DOCS / "performance.md"
NAMES = {
    "rate": "per second", "cpu_us": "CPU, µs each", "memory_mb": "memory, MB",
    "p50": "p50, µs", "p99": "p99, µs", "p99.9": "p99.9, µs",
}  # fmt: skip

Rows = Mapping[str, Mapping[str, float]]


def ratio(table: Table, rows: Rows, label: str, name: str) -> str:
    """Return how many times the reference's figure this one is."""
    if table.reference not in rows:
        return ""
    return f"{rows[label][name] / rows[table.reference][name]:.2f} ×"


def text(table: Table, rows: Rows) -> str:
    """Return a table for the terminal; ratios are to its reference."""
    lines = [f"\n{table.title}; × {table.reference}"]
    lines.append(f"{'':<32}" + "".join(f"{NAMES[name]:>22}" for name in table.figures))
    for label, row in rows.items():
        cells = (
            f"{chart.shown(row[name]):>13} {ratio(table, rows, label, name):>8}"
            for name in table.figures
        )
        lines.append(f"{label:<32}" + "".join(cells))
    return "\n".join(lines)


def write(key: str, table: Table, rows: Rows, rounds: int) -> None:
    """Put a table and its chart into the page, in place of those that are there."""
    own = {contestant.label for contestant in table.contestants if contestant.own}
    drawn = [(label, row[table.drawn], label in own) for label, row in rows.items()]
    picture = f"performance-{key.replace('_', '-')}.svg"
    (DOCS / picture).write_text(chart.bars(table.title, table.unit, drawn))
    lines = [
        f"![{table.title}]({picture})",
        "",
        "| | " + " | ".join(f"{NAMES[name]} | ×" for name in table.figures) + " |",
        "|---|" + "---:|---:|" * len(table.figures),
    ]
    for label, row in rows.items():
        cells = (
            f"{chart.shown(row[name])} | {ratio(table, rows, label, name)}"
            for name in table.figures
        )
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Medians of {rounds} rounds on Python {platform.python_version()}; × is the ratio to {table.reference}.",
    ]
    page = PAGE.read_text()
    begin, end = f"<!-- {key} -->", f"<!-- /{key} -->"
    block = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not block.search(page):
        raise ValueError(f"{PAGE} has no place for {key!r}: it needs {begin} and {end}")
    PAGE.write_text(block.sub(lambda _: "\n".join((begin, *lines, end)), page))
