"""The server side of IB Gateway: it serves a simulated market.

`server` accepts connections, `client` answers the requests of one client, `streams` has the streamed
market data, `history` past trades and bars.

The package states the facts of the venue itself and imports nothing of the client side. If both
sides shared a table, tests of one side against the other would not show an error in the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom_simulator.hooks import hookimpl

from .server import IBSide

if TYPE_CHECKING:
    from tapeloom_simulator.server_api import Market, VenueServer

__all__ = ["simulate"]


@hookimpl
def simulate(market: Market) -> VenueServer:
    """Return the gateway's side for a simulated market."""
    return IBSide(market)
