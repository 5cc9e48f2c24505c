"""What has been proven of a plugin, as its package says: the file ``contract.json`` in it.

The contract of a plugin's tests writes the file and holds the plugin to it. Nothing of the plugin is
imported to read it.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from attrs import Factory, asdict, define, field

from ._plugins import installed

__all__ = ["FILE", "Level", "Proof", "folder", "levels", "read", "table", "write"]

FILE = "contract.json"


@define
class Proof:
    """What is proven of one market of a venue, or of a stage or sink as a whole.

    `without` says of guarantees why they do not apply.
    """

    channels: list[str] = Factory(list)
    history: list[str] = Factory(list)
    guarantees: list[str] = Factory(list)
    without: dict[str, str] = Factory(dict)


@define
class Level:
    """What is proven of one plugin. `proven` is by market; "" where there are none."""

    kind: str  #: "venue", "stage" or "sink"
    name: str
    proven: dict[str, Proof] = field(factory=dict)

    def __str__(self) -> str:
        held = [len(proof.guarantees) for proof in self.proven.values()] or [0]
        some = f"{min(held)}" if min(held) == max(held) else f"{min(held)}-{max(held)}"
        if self.kind != "venue":
            return f"{some} guarantees"
        channels = sum(len(proof.channels) for proof in self.proven.values())
        markets = {market.partition(", ")[0] for market in self.proven}
        return f"{some} guarantees, channels: {channels}, markets: {len(markets)}"


def folder(module: str) -> Path | None:
    """Return the folder of the package that *module* belongs to, without importing it."""
    try:
        spec = importlib.util.find_spec(module.partition(":")[0].partition(".")[0])
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]) if places else None


def read(module: str) -> Level | None:
    """Return the level that the package of *module* was committed with; None where it has none."""
    home = folder(module)
    if home is None:
        return None
    try:
        found = json.loads((home / FILE).read_text(encoding="utf-8"))
        proven = {name: Proof(**proof) for name, proof in found["proven"].items()}
        return Level(found["kind"], found["name"], proven)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # whatever else stands there, nothing is proven by it


def write(level: Level, home: Path) -> None:
    """Write a level into the folder of its package."""
    text = json.dumps(asdict(level), indent=1, sort_keys=True, ensure_ascii=False)
    (home / FILE).write_text(text + "\n", encoding="utf-8")


def levels() -> dict[str, Level]:
    """Return the levels of all installed plugins that have one, by name."""
    read_ = {name: read(found.module) for name, found in installed().items()}
    return {name: level for name, level in read_.items() if level is not None}


def table(some: Iterable[Level], words: Mapping[str, str]) -> str:
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
