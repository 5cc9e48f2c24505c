"""Every exchange that ccxt.pro can watch, for tapeloom. A feed's `market` names the exchange.

The hooks stand here, the settings in `settings`. `exchange` makes the ccxt object, `source` watches it, `shapes`
reads what it returns, `trouble` reads what it raises. ccxt takes seconds to import, all its exchanges
at once, so nothing here imports it before a feed is composed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tapeloom.hooks import hookimpl

from .settings import ExchangeSettings, Settings

if TYPE_CHECKING:
    from tapeloom.plugin import Feed, Source

__all__ = ["BACKENDS", "ExchangeSettings", "Settings"]

BACKENDS = ("asyncio",)  #: ccxt works on no other event loop


@hookimpl
def settings() -> type[Any]:
    """Return the class of ``[venue.ccxt]``."""
    return Settings


@hookimpl
def connect(feed: Feed) -> Source:
    """Return what watches the exchange that the feed's market names.

    Raises ConfigError where ccxt.pro has no such exchange, or the exchange no such channel.
    """
    from .exchange import Maker
    from .source import CcxtSource

    table = (feed.settings or Settings()).exchanges.get(feed.market) or ExchangeSettings()
    maker = Maker(feed.market, table)
    maker.check(feed.channels)
    # Events tell the exchange, and are never taken for those of a plugin that is the exchange's own.
    feed.venue = f"ccxt-{feed.market}"
    return CcxtSource(feed, table, maker)
