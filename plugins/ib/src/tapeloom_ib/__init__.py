"""Interactive Brokers market data for tapeloom, through TWS or IB Gateway and ib_async.

This module has the hooks, `settings` the settings. `source` runs one `session` (a connection) after
the other. `dial` connects, `contracts` finds the contracts of symbols, `subscriptions` requests data,
`wire` parses messages, `codes` has the message codes, `pacing` the limits of requests. The package
`simulator` is the server side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tapeloom.hooks import hookimpl

from .settings import ContractTable, Settings

if TYPE_CHECKING:
    from tapeloom.plugin import Feed, Source

__all__ = ["BACKENDS", "ContractTable", "Settings"]

#: The event loops that ib_async supports.
BACKENDS = ("asyncio",)


@hookimpl
def settings() -> type[Any]:
    """Return the settings class of ``[venue.ib]``."""
    return Settings


@hookimpl
def connect(feed: Feed) -> Source:
    """Return the source. Only this call imports ib_async.

    Raises ConfigError for an unknown channel, or for more streams than the account may have.
    """
    from .source import IBSource

    return IBSource(feed, feed.settings or Settings())
