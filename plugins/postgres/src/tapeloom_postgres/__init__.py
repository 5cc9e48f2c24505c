"""Stores events in PostgreSQL, each one once, also after crashes and lost acknowledgements.

``[[sink]] use = "postgres"``: one table for each type of event, with exact numbers and times in ns.
"""

from __future__ import annotations

from tapeloom.hooks import hookimpl

from .settings import Settings
from .sink import PostgresSink

__all__ = ["PostgresSink", "Settings", "settings", "sink"]


@hookimpl
def settings() -> type[Settings]:
    """Return the class of the settings in ``[[sink]]``."""
    return Settings


@hookimpl
def sink(settings: Settings | None) -> PostgresSink:
    """Return a sink that writes to the database of *settings*."""
    return PostgresSink(settings or Settings())
