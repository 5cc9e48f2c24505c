"""Alpaca's server side: it serves a simulated market in the venue's protocol.

`server` accepts connections and calls, `streams` has the streams, `rest` the REST answers, and `text`
writes numbers, times and items.

The package states the facts of the venue itself and imports nothing of the client side. If both
sides shared a table, tests of one side against the other would not show an error in the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom_simulator.hooks import hookimpl

from .server import AlpacaSide

if TYPE_CHECKING:
    from tapeloom_simulator.server_api import Market, VenueServer

__all__ = ["simulate"]


@hookimpl
def simulate(market: Market) -> VenueServer:
    """Return Alpaca's server side for a simulated market."""
    return AlpacaSide(market)
