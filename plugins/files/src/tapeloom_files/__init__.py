"""Sink: stores events as JSON lines or CSV in files that rotate by size and time, each event once."""

from __future__ import annotations

from tapeloom.hooks import hookimpl

from .settings import Settings
from .sink import FilesSink

__all__ = ["FilesSink", "Settings"]


@hookimpl(specname="settings")
def _settings() -> type[Settings]:
    return Settings


@hookimpl(specname="sink")
def _sink(settings: Settings | None) -> FilesSink:
    return FilesSink(settings or Settings())
