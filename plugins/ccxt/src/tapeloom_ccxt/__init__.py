"""Every exchange that ccxt.pro can watch, for tapeloom. A feed's `market` names the exchange.

This module has the hooks, `settings` the settings. `exchange` makes the ccxt object, `source` watches
it, `topic` is one symbol and channel, `parsers` turns what ccxt returns into events, `remedies`
classifies what it raises. ccxt with all its exchanges takes seconds to import, so nothing here
imports it before a feed is composed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tapeloom.hooks import hookimpl

from .settings import ExchangeSettings, Settings

if TYPE_CHECKING:
    from tapeloom.plugin import Feed, Source

__all__ = ["BACKENDS", "ExchangeSettings", "Settings"]

#: The event loops that ccxt supports.
BACKENDS = ("asyncio",)


@hookimpl
def settings() -> type[Any]:
    """Return the settings class of ``[venue.ccxt]``."""
    return Settings


@hookimpl
def connect(feed: Feed) -> Source:
    """Return the source that watches the exchange named by the feed's market.

    Raises ConfigError if ccxt.pro has no such exchange, or the exchange no such channel.
    """
    from .exchange import ExchangeFactory
    from .source import CcxtSource

    table = (feed.settings or Settings()).exchanges.get(feed.market) or ExchangeSettings()
    factory = ExchangeFactory(feed.market, table)
    factory.check(feed.channels)
    # The venue of events names the exchange, but differs from that of the exchange's own plugin.
    feed.venue = f"ccxt-{feed.market}"
    return CcxtSource(feed, table, factory)
