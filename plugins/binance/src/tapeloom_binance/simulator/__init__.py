"""Binance's server side, fed by a simulated market.

`server` takes connections and calls, `streams` has the streams, `rest` the REST answers, and `text`
writes numbers, symbols and levels.

The package states the facts of the venue itself and imports nothing of the client side. If both
sides shared a table, tests of one side against the other would not show an error in the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom_simulator.hooks import hookimpl

from .server import BinanceSide

if TYPE_CHECKING:
    from tapeloom_simulator.server_api import Market, VenueServer

__all__ = ["simulate"]


@hookimpl
def simulate(market: Market) -> VenueServer:
    """Return Binance's server side, fed by a simulated market."""
    return BinanceSide(market)
