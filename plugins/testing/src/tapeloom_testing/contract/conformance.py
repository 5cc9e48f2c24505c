"""Write the conformance file of a plugin, and format conformances as a Markdown table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from attrs import asdict
from tapeloom.harness import Conformance

__all__ = ["table", "write"]


def write(conformance: Conformance, path: Path) -> None:
    """Write what was proven of one plugin, its conformance, as JSON to *path*."""
    text = json.dumps(asdict(conformance), indent=1, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def table(conformances: Iterable[Conformance], claims: Mapping[str, str]) -> str:
    """Return a Markdown table of the venues, their markets and their proven guarantees.

    *claims* maps the key of each guarantee of a venue to its claim.
    """
    venues = [conformance for conformance in conformances if conformance.kind == "venue"]
    rows = ["| venue | market | channels | history | not claimed |", "|---|---|---|---|---|"]
    reasons: dict[tuple[str, str], list[str]] = {}
    for venue in venues:
        for market, proof in sorted(venue.proven.items()):
            missing = [guarantee for guarantee in claims if guarantee not in proof.guarantees]
            cells = (proof.channels, proof.history, missing)
            shown = " | ".join(" ".join(cell) or "–" for cell in cells)
            rows.append(f"| {venue.name} | {market or '–'} | {shown} |")
            for guarantee, reason in proof.without.items():
                reasons.setdefault((venue.name, reason), []).append(guarantee)
    lines = [
        f"- {name}, {', '.join(sorted(set(guarantees)))}: {reason}."
        for (name, reason), guarantees in sorted(reasons.items())
    ]
    claim_rows = [f"| {guarantee} | {claim} |" for guarantee, claim in claims.items()]
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
            *claim_rows,
        ]
    )
