"""The server side of IB Gateway, fed by a simulated market. It imports nothing of the client side.

`server` takes connections, `client` answers the requests of one client, `streams` has the streamed
market data, `history` past trades and bars. `simulate` builds the server side.
"""

from __future__ import annotations

from .server import simulate

__all__ = ["simulate"]
