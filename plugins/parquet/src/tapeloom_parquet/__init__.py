"""Sink: stores events as Parquet files in folders by type, venue and day, each event once.

`ParquetSink` is the sink. `dataset` and `events` read the files back, `compact` joins small ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tapeloom.hooks import hookimpl

if TYPE_CHECKING:
    import argparse

    from .compaction import Compacted, compact
    from .leftovers import publish_leftovers
    from .reading import dataset, events
    from .settings import Settings
    from .sink import ParquetSink

__all__ = [
    "Compacted",
    "ParquetSink",
    "Settings",
    "compact",
    "dataset",
    "events",
    "publish_leftovers",
]

#: The module of each exported name, for the lazy import below.
_EXPORTS = {
    "compaction": ("Compacted", "compact"),
    "leftovers": ("publish_leftovers",),
    "reading": ("dataset", "events"),
    "settings": ("Settings",),
    "sink": ("ParquetSink",),
}


def __getattr__(name: str) -> Any:
    # Import lazily: the command line imports this module at every start, and pyarrow takes its time.
    for module, names in _EXPORTS.items():
        if name in names:
            import importlib

            return getattr(importlib.import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@hookimpl(specname="settings")
def _settings() -> type[Settings]:
    from .settings import Settings

    return Settings


@hookimpl(specname="sink")
def _sink(settings: Settings | None) -> ParquetSink:
    from .settings import Settings
    from .sink import ParquetSink

    return ParquetSink(settings or Settings())


@hookimpl
def commands(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``parquet``."""
    from . import command

    command.add(verbs)
