"""Bybit's server side: it serves a simulated market as API v5 of the venue would.

`server` accepts the connections and answers the requests on them. `streams` has the topics of the
WebSocket streams, `rest` the REST answers. `text` formats symbols, prices and sizes.

The package states the facts of the venue itself and imports nothing of the client side. If both
sides shared a table, tests of one side against the other would not show an error in the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom_simulator.hooks import hookimpl

from .server import BybitServer

if TYPE_CHECKING:
    from tapeloom_simulator.server_api import Market, VenueServer

__all__ = ["simulate"]


@hookimpl
def simulate(market: Market) -> VenueServer:
    """Return Bybit's server side for a simulated market."""
    return BybitServer(market)
