"""Sink for Redis and Valkey: stores events in streams, each exactly once.

This module has the hooks, `_settings` the settings. `_sink` writes batches with the script of `_script`,
`_failures` turns the exceptions of the client into errors, `_server` reads what the server is and how it
keeps data, and `_latest` chooses the newest events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom.hooks import hookimpl

from ._settings import Settings
from ._sink import RedisSink

if TYPE_CHECKING:
    from tapeloom.plugin import Sink

__all__ = ["RedisSink", "Settings"]


@hookimpl
def settings() -> type[Settings]:
    """Return the class of the settings in ``[[sink]]``."""
    return Settings


@hookimpl
def sink(settings: Settings | None) -> Sink:
    """Return the sink."""
    return RedisSink(settings or Settings())
