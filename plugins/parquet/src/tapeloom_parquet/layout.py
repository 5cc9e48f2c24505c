"""Where everything lies in the folder of a dataset.

``type=T/venue=V/date=D/STEM.parquet`` are the files for readers. ``_tapeloom`` has what only this plugin
reads: for each sink a folder with its journals and its state, and ``compact`` for joins under way. Files
are made in ``_tapeloom`` and moved, so a reader never sees half a file, whatever names it ignores.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from tapeloom.errors import SinkRefused

__all__ = ["INTERNAL", "Layout", "partition", "stem"]

INTERNAL = "_tapeloom"
#: What Hive calls the partition of an empty text.
_EMPTY = "__HIVE_DEFAULT_PARTITION__"


def partition(event_type: str, venue: str, date: str) -> str:
    """Return the folder of the files of a type, venue and day, relative to the dataset."""
    return f"type={event_type}/venue={quote(venue, safe='') or _EMPTY}/date={date}"


def stem(sink: str, epoch: int, first: int) -> str:
    """Return the name, without suffix, of the journal and the files that begin with an event."""
    return f"{sink}-{epoch:020d}-{first:012d}"


class Layout:
    """The paths of a dataset."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.internal = root / INTERNAL
        #: Held shared while files appear in partitions, exclusively while a partition is exchanged.
        self.lock = self.internal / "lock"
        self.compactions = self.internal / "compact"

    def sink(self, name: str) -> Path:
        """Return the folder of a sink's journals and state."""
        return self.internal / f"sink={name}"

    def journals(self) -> list[Path]:
        """Return the journals of all sinks."""
        return sorted(self.internal.glob("sink=*/*.journal"))

    def types(self) -> list[Path]:
        """Return the folders of event types."""
        return sorted(path for path in self.root.glob("type=*") if path.is_dir())

    def partitions(self) -> Iterator[Path]:
        """Yield the folders that have files."""
        for folder in self.types():
            yield from sorted(path for path in folder.glob("venue=*/date=*") if path.is_dir())

    def has_files_of(self, sink: str) -> bool:
        """Return whether there are files of a sink in the partitions."""
        name = re.compile(rf"(joined-)?{re.escape(sink)}-\d{{20}}-\d{{12,}}[^/]*\.parquet")
        return any(name.fullmatch(file.name) for file in self.root.glob("type=*/*/*/*.parquet"))

    def check(self) -> None:
        """Raise SinkRefused if the folder has something else than a dataset of this plugin."""
        if not self.root.is_dir():
            return
        for entry in sorted(self.root.iterdir()):
            key, separator, _ = entry.name.partition("=")
            if entry.suffix == ".parquet" or (separator and key != "type"):
                raise SinkRefused(
                    f"expected folders by type, venue and day in {str(self.root)!r}, found"
                    f" {entry.name!r}: another program has written it. Set `path` to an empty folder."
                )
