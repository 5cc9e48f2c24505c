"""Publishes the journals that processes which were killed have left."""

from __future__ import annotations

from pathlib import Path

from . import disk, journal, state
from .layout import Layout
from .publishing import ROW_GROUP, TEMPORARY, publish

__all__ = ["publish_leftovers"]


def publish_leftovers(path: Path | str) -> int:
    """Make Parquet files of the journals of sinks that do not run; return the number of journals.

    The next start of the sink does the same. Raises SinkRefused or SinkUnavailable.
    """
    layout = Layout(Path(path))
    count = 0
    with disk.explained(layout.root):
        for folder in sorted(layout.internal.glob("sink=*")):
            try:
                with disk.lock(folder / "lock", exclusive=True, wait=False):
                    count += _publish(layout, folder)
            except BlockingIOError:
                continue  # the sink runs, and publishes its journal itself
    return count


def _publish(layout: Layout, folder: Path) -> int:
    paths = sorted(folder.glob(f"*{journal.SUFFIX}"))
    if paths:
        for temporary in folder.glob(f"*{TEMPORARY}"):
            temporary.unlink()
        saved = state.load(folder) or state.State()
        for path in paths:
            publish(layout, path, saved, ROW_GROUP)
    return len(paths)
