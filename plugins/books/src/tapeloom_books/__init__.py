"""Aggregate stage: keeps local order books in sync from snapshots and deltas.

`Books` is the stage; its `books` are the live `LocalBook` objects by symbol and channel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom.hooks import hookimpl

from .ladder import Ladder
from .local import LocalBook
from .settings import Settings
from .stage import Books

if TYPE_CHECKING:
    from tapeloom.plugin import Feed

__all__ = ["Books", "Ladder", "LocalBook", "Settings", "aggregate", "settings"]


@hookimpl
def settings() -> type[Settings]:
    """Return the class of the table `[stage.books]`."""
    return Settings


@hookimpl
def aggregate(feed: Feed) -> Books:
    """Return the stage that maintains the order books of *feed*."""
    return Books(feed, feed.settings or Settings())
