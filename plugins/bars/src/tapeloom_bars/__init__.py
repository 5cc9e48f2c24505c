"""Aggregate stage: builds OHLCV bars from trades.

Bars use event time and are aligned to the Unix epoch. They close on time even if no trade follows,
and a late trade revises its bar or is rejected.

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
    """Return the class of the table ``[stage.bars]``."""
    return Settings


@hookimpl
def aggregate(feed: Feed) -> Bars:
    """Return the stage that adds bars to *feed*."""
    return Bars(feed.settings or Settings())
