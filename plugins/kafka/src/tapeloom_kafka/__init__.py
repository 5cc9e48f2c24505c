"""Sink for Kafka: writes events to topics, each batch in one transaction.

This module has the hooks, `_settings` the settings. `_sink` writes batches, `_messages` turns events into
messages, `_cursor` keeps in a topic how far the sink is, `_topics` creates topics, and `_failures` turns the
exceptions of the client into errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom.hooks import hookimpl

from ._settings import Settings
from ._sink import KafkaSink

if TYPE_CHECKING:
    from tapeloom.plugin import Sink

__all__ = ["KafkaSink", "Settings"]


@hookimpl
def settings() -> type[Settings]:
    """Return the class of the settings in ``[[sink]]``."""
    return Settings


@hookimpl
def sink(settings: Settings | None) -> Sink:
    """Return the sink."""
    return KafkaSink(settings or Settings())
