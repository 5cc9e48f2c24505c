"""picows as the transport of a stack: ``transport = "picows"`` under ``[network]``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom.hooks import hookimpl

if TYPE_CHECKING:
    from tapeloom.plugin import Dial, Feed

__all__ = ["BACKENDS"]

BACKENDS = ("asyncio",)  #: picows works on no other event loop


@hookimpl
def transport(feed: Feed) -> Dial:
    """Dial through picows."""
    from .dial import Dialler

    return Dialler(feed.name, feed.network, feed.clock)
