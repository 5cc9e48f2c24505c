"""Interactive Brokers market data for tapeloom, through TWS or IB Gateway and ib_async.

The hooks stand here, the settings in `settings`. `contracts` turns symbols into contracts, `wire` the gateway's fields into
events, `codes` says what each error code asks for, `session` keeps one connection and `source` one
after the other; `simulator` is the server side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tapeloom.hooks import hookimpl

from .settings import ContractTable, Settings

if TYPE_CHECKING:
    from tapeloom.plugin import Feed, Source

__all__ = ["BACKENDS", "ContractTable", "Settings"]

BACKENDS = ("asyncio",)  #: ib_async works on no other event loop


@hookimpl
def settings() -> type[Any]:
    """Return the class of ``[venue.ib]``."""
    return Settings


@hookimpl
def connect(feed: Feed) -> Source:
    """Return the source; ib_async is imported only by who runs it.

    Raises ConfigError where a channel is not the venue's, or too much is asked of the account.
    """
    from .source import IBSource

    return IBSource(feed, feed.settings or Settings())
