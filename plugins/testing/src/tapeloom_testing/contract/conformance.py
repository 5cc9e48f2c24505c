"""Conformance: what the contracts have proven of a plugin, written into its package and shown as a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from attrs import asdict
from tapeloom.harness import Conformance

__all__ = ["table", "write"]


def write(level: Conformance, path: Path) -> None:
    """Write what was proven into the file of its package."""
    text = json.dumps(asdict(level), indent=1, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def table(some: Iterable[Conformance], words: Mapping[str, str]) -> str:
    """Return venues, their markets and what is proven of them, as Markdown.

    *words* are the guarantees of a venue, each with what it says.
    """
    venues = [level for level in some if level.kind == "venue"]
    rows = ["| venue | market | channels | history | not claimed |", "|---|---|---|---|---|"]
    reasons: dict[tuple[str, str], list[str]] = {}
    for level in venues:
        for market, proof in sorted(level.proven.items()):
            missing = [word for word in words if word not in proof.guarantees]
            cells = (proof.channels, proof.history, missing)
            shown = " | ".join(" ".join(cell) or "–" for cell in cells)
            rows.append(f"| {level.name} | {market or '–'} | {shown} |")
            for word, reason in proof.without.items():
                reasons.setdefault((level.name, reason), []).append(word)
    lines = [
        f"- {name}, {', '.join(sorted(set(some)))}: {reason}."
        for (name, reason), some in sorted(reasons.items())
    ]
    said = [f"| {word} | {claim} |" for word, claim in words.items()]
    return "\n".join(
        [
            *rows,
            "",
            "What is not claimed, and why:",
            "",
            *lines,
            "",
            "| guarantee | what it says |",
            "|---|---|",
            *said,
        ]
    )
