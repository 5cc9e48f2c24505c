"""Binance market data for tapeloom: spot, USD-M and COIN-M futures.

This module has the hooks, `settings` the settings. `symbols` has the venue's limits, addresses and
names, `wire` its messages, `parser` parses frames with them, `codec` has its subscription requests and
replies, `history` its REST interface. `simulator` is a simulated server of the venue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tapeloom.hooks import hookimpl

from .codec import BinanceCodec
from .history import BinanceHistory
from .parser import Parser
from .settings import Settings
from .symbols import Names, names_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tapeloom.plugin import Codec, Endpoint, Feed, History, Parse

__all__ = ["Settings"]


def _names(feed: Feed) -> Names:
    return names_of(feed, feed.settings or Settings())


@hookimpl
def settings() -> type[Any]:
    """Return the class of the settings in ``[venue.binance]``."""
    return Settings


@hookimpl
def connect(feed: Feed) -> Sequence[Endpoint]:
    """Return one WebSocket endpoint for spot or COIN-M futures, two for USD-M futures."""
    return _names(feed).endpoints()


@hookimpl
def subscribe(feed: Feed) -> Codec:
    """Return the encoder of subscription requests and decoder of replies."""
    return BinanceCodec(feed, _names(feed))


@hookimpl
def parse(feed: Feed) -> Parse:
    """Return the parser of frames."""
    return Parser(feed, _names(feed))


@hookimpl
def history(feed: Feed) -> History:
    """Return the encoder of REST requests and decoder of answers."""
    return BinanceHistory(feed, _names(feed))
