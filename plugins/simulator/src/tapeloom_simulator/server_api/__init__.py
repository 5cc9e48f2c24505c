"""The interface between the simulator and the server side of a venue.

The simulator runs one market, listens for connections, enforces limits, injects faults and records the
ground truth. A venue package adds the venue's protocol: its hook `simulate(market)` returns a
`VenueServer`, which answers REST requests, opens a `VenueSession` for each WebSocket connection and
creates `VenueStream`s, which encode the market's events as messages. A server side does no I/O and
stores no prices of its own: it reads everything from the market, so that streams and REST agree. A venue
that uses neither HTTP nor WebSocket also implements `Framing`, which frames its messages on TCP.

Prices are whole numbers of ticks and sizes whole numbers of lots; `SimulatedInstrument.tick` and
`SimulatedInstrument.lot` are their values. Times are ns since 1970 UTC on the market's own clock.

`market` has what the simulator offers of its market, `venue` what a server side and its connections are.
"""

from __future__ import annotations

from .market import (
    BookSnapshot,
    Market,
    MarketBar,
    MarketStep,
    MarketTrade,
    SimulatedInstrument,
    TopOfBook,
)
from .venue import (
    ClientConnection,
    ConnectionRules,
    Framing,
    HttpRequest,
    HttpResponse,
    RestBudget,
    VenueServer,
    VenueSession,
    VenueStream,
)

__all__ = [
    "BookSnapshot",
    "ClientConnection",
    "ConnectionRules",
    "Framing",
    "HttpRequest",
    "HttpResponse",
    "Market",
    "MarketBar",
    "MarketStep",
    "MarketTrade",
    "RestBudget",
    "SimulatedInstrument",
    "TopOfBook",
    "VenueServer",
    "VenueSession",
    "VenueStream",
]
