"""Binance's server side: it serves a simulated market as the venue would.

`server` accepts connections and calls, `streams` has the WebSocket streams, `rest` the REST answers,
and `text` formats numbers, symbols and levels.

The package states the facts of the venue itself and imports nothing of the client side. If both
sides shared a table, tests of one side against the other would not show an error in the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom_simulator.hooks import hookimpl

from .server import BinanceServer

if TYPE_CHECKING:
    from tapeloom_simulator.server_api import Market, VenueServer

__all__ = ["simulate"]


@hookimpl
def simulate(market: Market) -> VenueServer:
    """Return Binance's server side for a simulated market."""
    return BinanceServer(market)
