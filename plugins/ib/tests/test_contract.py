"""The venue contract for Interactive Brokers."""

from __future__ import annotations

from tapeloom_testing.contract import VenueContract

_NO_SIDE = "the venue tells no taker's side"


class TestIB(VenueContract):
    venue = "ib"
    markets = {"": ("AAPL/USD", "MSFT/USD")}
    channels = ("trades", "quotes", "book:5", "klines:5s")
    unit = 1_000_000_000
    without = {"sides": _NO_SIDE}
