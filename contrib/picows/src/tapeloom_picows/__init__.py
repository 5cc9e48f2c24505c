"""picows as a stack's WebSocket transport: ``transport = "picows"`` under ``[network]``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom.hooks import hookimpl

if TYPE_CHECKING:
    from tapeloom.plugin import Dial, Feed

__all__ = ["BACKENDS"]

BACKENDS = ("asyncio",)  #: the only event loop that picows supports


@hookimpl
def transport(feed: Feed) -> Dial:
    """Return a `Dial` that connects through picows."""
    from .dial import PicowsDial

    return PicowsDial(feed.name, feed.network, feed.clock)
