"""Stores the events of tapeloom in NATS JetStream, each exactly once, and reads them back as a venue.

This module has the hooks, `settings` the settings. `sink` is the sink; `connection` talks to the server,
`stream` creates or checks the stream, and `state` reads back what is stored. `messages` and `columns` are
the form of the messages, also for readers. `source` is the venue: `consumer` reads messages, `sequencer`
puts their events in order, and `replicas` merges the copies of a cluster, which `comparison` compares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tapeloom.errors import ConfigError, Mistake
from tapeloom.hooks import hookimpl

from .messages import MessageReader
from .settings import SINK_ONLY, VENUE_ONLY, Settings
from .sink import NatsSink
from .source import NatsSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tapeloom.plugin import Feed, Sink

__all__ = ["MessageReader", "Settings"]


@hookimpl
def sink(settings: Any) -> Sink:
    """Return the sink."""
    given = settings or Settings()
    if mistakes := _misplaced(given, VENUE_ONLY, "", "[venue.nats]"):
        raise ConfigError(mistakes)
    return NatsSink(given)


@hookimpl
def connect(feed: Feed) -> NatsSource:
    """Return the source that relays the events of a stream."""
    given = feed.settings or Settings()
    if mistakes := _misplaced(given, SINK_ONLY, "venue.nats.", "[[sink]]"):
        raise ConfigError(mistakes)
    return NatsSource(feed, given)


def _misplaced(settings: Settings, keys: Sequence[str], place: str, right: str) -> list[Mistake]:
    """Return the mistakes of keys that belong to the other table."""
    default = Settings()
    return [
        Mistake(f"{place}{key}", f"this key belongs to {right}. Move or delete it.")
        for key in keys
        if getattr(settings, key) != getattr(default, key)
    ]


@hookimpl
def settings() -> type[Any]:
    """Return the settings class of ``[[sink]]`` tables and of ``[venue.nats]``."""
    return Settings
