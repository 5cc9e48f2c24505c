"""Conformance results of a plugin: the file ``conformance.json`` in its package.

The contract tests of a plugin write the file, and fail when the plugin no longer meets it. The file is
read without importing the plugin.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from attrs import Factory, define, field

from .discovery import installed

#: Name of the file in the package of a plugin.
FILE = "conformance.json"


@define
class Proof:
    """What the contract tests verified for one market of a venue, or for a stage or sink as a whole."""

    channels: list[str] = Factory(list)  #: channels that were tested
    history: list[str] = Factory(list)  #: kinds of history request that were tested
    guarantees: list[str] = Factory(list)  #: guarantees that hold
    without: dict[str, str] = Factory(dict)  #: guarantees that do not apply, each with the reason


@define
class Conformance:
    """The conformance results of one plugin."""

    kind: str  #: "venue", "stage" or "sink"
    name: str
    proven: dict[str, Proof] = field(factory=dict)  #: by market; "" for a plugin without markets

    def __str__(self) -> str:
        counts = [len(proof.guarantees) for proof in self.proven.values()] or [0]
        least, most = min(counts), max(counts)
        guarantees = f"{least} guarantees" if least == most else f"{least}-{most} guarantees"
        if self.kind != "venue":
            return guarantees
        channels = sum(len(proof.channels) for proof in self.proven.values())
        markets = {market.partition(", ")[0] for market in self.proven}
        return f"{guarantees}, channels: {channels}, markets: {len(markets)}"


def conformance_file(module: str) -> Path | None:
    """Return the path of the conformance file in the package of *module*, without importing it.

    None if there is no such package.
    """
    try:
        spec = importlib.util.find_spec(module.partition(":")[0].partition(".")[0])
    except (ImportError, ValueError):
        return None
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(folders[0]) / FILE if folders else None


def read_conformance(module: str) -> Conformance | None:
    """Return the conformance results in the package of *module*; None without a valid file."""
    path = conformance_file(module)
    if path is None:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        proven = {name: Proof(**proof) for name, proof in content["proven"].items()}
        return Conformance(content["kind"], content["name"], proven)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # the file is missing or malformed


def conformances() -> dict[str, Conformance]:
    """Return the conformance results of all installed plugins that have any, by plugin name."""
    results = {name: read_conformance(plugin.module) for name, plugin in installed().items()}
    return {name: result for name, result in results.items() if result is not None}
