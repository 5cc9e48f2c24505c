"""Alpaca stock and crypto market data for tapeloom, streamed or polled.

This module has the hooks, `settings` the settings, `names` markets, names and addresses. `codec`
subscribes, `parser` parses frames, `wire` has their messages, `times` their times. `history` is the REST interface, `poll` the source for accounts
without a stream. The package `simulator` is the server side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tapeloom.hooks import hookimpl

from .codec import AlpacaCodec
from .history import AlpacaHistory
from .names import Names, names_of
from .parser import Parser
from .poll import Poller
from .settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tapeloom.plugin import Codec, Endpoint, Feed, History, Parse, Source

__all__ = ["Settings"]


def _names(feed: Feed) -> Names:
    return names_of(feed, feed.settings or Settings())


@hookimpl
def settings() -> type[Any]:
    """Return the settings class of ``[venue.alpaca]``."""
    return Settings


@hookimpl
def connect(feed: Feed) -> Sequence[Endpoint] | Source:
    """Return the market's one endpoint, or the source that polls it."""
    names = _names(feed)
    return Poller(feed, names) if names.settings.mode == "poll" else [names.endpoint()]


@hookimpl
def subscribe(feed: Feed) -> Codec:
    """Return the codec of subscribe messages."""
    return AlpacaCodec(feed, _names(feed))


@hookimpl
def parse(feed: Feed) -> Parse:
    """Return the parser of frames."""
    return Parser(feed, _names(feed))


@hookimpl
def history(feed: Feed) -> History:
    """Return the REST interface."""
    return AlpacaHistory(feed, _names(feed))
