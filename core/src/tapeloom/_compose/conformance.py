"""What has been proven of a plugin, as its package says: the file ``conformance.json`` in it.

The contract of a plugin's tests writes the file and holds the plugin to it. Nothing of the plugin is
imported to read it.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from attrs import Factory, define, field

from .discovery import installed

FILE = "conformance.json"


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
class Conformance:
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


def conformance_file(module: str) -> Path | None:
    """Return where the package of *module* keeps its conformance, without importing it."""
    try:
        spec = importlib.util.find_spec(module.partition(":")[0].partition(".")[0])
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]) / FILE if places else None


def read_conformance(module: str) -> Conformance | None:
    """Return the level that the package of *module* was committed with; None where it has none."""
    path = conformance_file(module)
    if path is None:
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        proven = {name: Proof(**proof) for name, proof in found["proven"].items()}
        return Conformance(found["kind"], found["name"], proven)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # whatever else stands there, nothing is proven by it


def conformances() -> dict[str, Conformance]:
    """Return the levels of all installed plugins that have one, by name."""
    read_ = {name: read_conformance(found.module) for name, found in installed().items()}
    return {name: level for name, level in read_.items() if level is not None}
