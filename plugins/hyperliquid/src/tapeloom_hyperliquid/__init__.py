"""Hyperliquid market data for tapeloom: perpetuals, including those of builders, and spot.

This module has the hooks, `settings` the settings, `symbols` addresses, limits and names. `codec`
subscribes, `wire` parses frames, with `dedup` for repeated trades and `bars` for the closing of bars.
`history` is the REST interface. The package `simulator` is the server side.
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
    """Return the settings class of ``[venue.hyperliquid]``."""
    return Settings


@hookimpl
def connect(feed: Feed) -> Sequence[Endpoint]:
    """Return the one endpoint that serves all channels."""
    return [_names(feed).endpoint()]


@hookimpl
def subscribe(feed: Feed) -> Codec:
    """Return the codec of subscribe messages."""
    return HyperliquidCodec(feed, _names(feed))


@hookimpl
def parse(feed: Feed) -> Parse:
    """Return the parser of frames."""
    return Parser(feed, _names(feed))


@hookimpl
def history(feed: Feed) -> History:
    """Return the REST interface."""
    return HyperliquidHistory(feed, _names(feed))
