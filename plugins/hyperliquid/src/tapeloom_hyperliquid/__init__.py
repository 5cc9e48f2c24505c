"""Hyperliquid market data for tapeloom: perpetuals, those of builders too, and spot.

The hooks stand here, the settings in `settings`. `symbols` has the venue's facts and names, `wire` its frames, `codec` its
subscription language, `history` its REST interface. The package `simulator` is its server side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tapeloom.hooks import hookimpl

from .codec import HyperliquidCodec
from .history import HyperliquidHistory
from .settings import Settings
from .symbols import Names, names_of
from .wire import Parser

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tapeloom.plugin import Codec, Endpoint, Feed, History, Parse

__all__ = ["Settings"]


def _names(feed: Feed) -> Names:
    return names_of(feed, feed.settings or Settings())


@hookimpl
def settings() -> type[Any]:
    """Return the class of ``[venue.hyperliquid]``."""
    return Settings


@hookimpl
def connect(feed: Feed) -> Sequence[Endpoint]:
    """Return the one endpoint that serves all."""
    return [_names(feed).endpoint()]


@hookimpl
def subscribe(feed: Feed) -> Codec:
    """Return the subscription language."""
    return HyperliquidCodec(feed, _names(feed))


@hookimpl
def parse(feed: Feed) -> Parse:
    """Return the parser of frames."""
    return Parser(feed, _names(feed))


@hookimpl
def history(feed: Feed) -> History:
    """Return the REST language."""
    return HyperliquidHistory(feed, _names(feed))
