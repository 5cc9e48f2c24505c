"""The contract of sinks: each event once, after lost acknowledgements, kills and restarts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tapeloom_testing.contract import SinkContract

from .reading import stored


class TestFiles(SinkContract):
    sink = "files"

    def settings(self, folder: Path) -> Mapping[str, Any]:
        """Files rotate often, so that kills meet it."""
        return {"path": str(folder / "events"), "compression": "gzip", "rotate_size": "4kB"}

    def stored(self, folder: Path) -> Sequence[Any]:
        return stored(folder / "events")

    def failing(self, folder: Path) -> Mapping[str, Mapping[str, Any]]:
        (folder / "file").write_text("no folder")
        return {
            "a file in place of the folder": {"path": str(folder / "file")},
            "a folder below a file": {"path": str(folder / "file/events")},
        }
