"""The venue ``remote``: reads a stream that `tapeloom-serve` serves elsewhere, as if it ran here.

`settings` has the settings, `source` reads the WebSocket, and `continuity` finds what was missed while it
was down.
"""

from __future__ import annotations

from tapeloom.hooks import hookimpl
from tapeloom.plugin import Feed

from .settings import RemoteSettings
from .source import RemoteStream

__all__ = ["RemoteSettings", "RemoteStream"]


@hookimpl
def settings() -> type[RemoteSettings]:
    """Return the class of the settings in ``[venue.remote]``."""
    return RemoteSettings


@hookimpl
def connect(feed: Feed) -> RemoteStream:
    """Return the source."""
    return RemoteStream(feed, feed.settings or RemoteSettings())
