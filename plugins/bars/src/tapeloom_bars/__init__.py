"""OHLCV bars from trades: event time, aligned to the epoch, closed on time, late trades accounted for.

``[stage.bars] every = ["1s", "1m"]``
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom.hooks import hookimpl

from ._settings import Settings
from ._stage import Bars

if TYPE_CHECKING:
    from tapeloom.plugin import Feed

__all__ = ["Bars", "Settings", "aggregate", "settings"]


@hookimpl
def settings() -> type[Settings]:
    """Return what may stand under ``[stage.bars]``."""
    return Settings


@hookimpl
def aggregate(feed: Feed) -> Bars:
    """Return the stage that adds bars to *feed*."""
    return Bars(feed.settings or Settings())
