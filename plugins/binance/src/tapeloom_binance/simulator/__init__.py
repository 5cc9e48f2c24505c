"""Binance's server side, fed by a simulated market. It imports nothing of the client side.

`server` takes connections and calls, `streams` has the streams, `rest` the REST answers, and `text`
writes numbers, symbols and levels. `simulate` builds the server side.
"""

from __future__ import annotations

from .server import simulate

__all__ = ["simulate"]
