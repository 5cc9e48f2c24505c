"""Hyperliquid's server side: it serves a simulated market in the language of the venue.

`server` accepts the connections and answers the requests on them. `streams` has the streams, and
writes names, prices and sizes. `rest` has the REST answers and the list of what is traded.

The package states the facts of the venue itself and imports nothing of the client side. If both
sides shared a table, tests of one side against the other would not show an error in the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom_simulator.hooks import hookimpl

from .server import HyperliquidSide

if TYPE_CHECKING:
    from tapeloom_simulator.server_api import Market, VenueServer

__all__ = ["simulate"]


@hookimpl
def simulate(market: Market) -> VenueServer:
    """Return Hyperliquid's server side for a simulated market."""
    return HyperliquidSide(market)
