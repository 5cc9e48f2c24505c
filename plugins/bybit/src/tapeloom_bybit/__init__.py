"""Bybit spot and linear perpetual market data for tapeloom: API v5, without a key.

The hooks stand here, the settings in `settings`. `names` has the venue's facts and words, `wire` its frames, `codec` its
subscription language, `history` its REST interface. The package `simulator` is its server side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tapeloom.hooks import hookimpl

from .codec import BybitCodec
from .history import BybitHistory
from .names import Names, names_of
from .settings import Settings
from .wire import Parser

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tapeloom.plugin import Codec, Endpoint, Feed, History, Parse

__all__ = ["Settings"]


def _names(feed: Feed) -> Names:
    return names_of(feed, feed.settings or Settings())


@hookimpl
def settings() -> type[Any]:
    """Return the class of ``[venue.bybit]``."""
    return Settings


@hookimpl
def connect(feed: Feed) -> Sequence[Endpoint]:
    """Return the public stream of the feed's market."""
    return [_names(feed).endpoint()]


@hookimpl
def subscribe(feed: Feed) -> Codec:
    """Return the subscription language."""
    return BybitCodec(feed, _names(feed))


@hookimpl
def parse(feed: Feed) -> Parse:
    """Return the parser of frames."""
    return Parser(feed, _names(feed))


@hookimpl
def history(feed: Feed) -> History:
    """Return the REST language."""
    return BybitHistory(feed, _names(feed))
