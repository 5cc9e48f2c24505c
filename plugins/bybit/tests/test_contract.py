"""Bybit through the contract."""

from __future__ import annotations

from tapeloom_testing.contract import Capture, VenueContract

MARKETS = {"spot": ("BTC/USDT", "ETH/USDT"), "linear": ("BTC/USDT:USDT", "ETH/USDC:USDC")}
FIRST = {market: some[:1] for market, some in MARKETS.items()}
REST = {"resync": "rest"}
RECORDED = {
    "bybit/v5_spot_testnet_20260913": Capture(
        market="spot", symbols=("BTC/USDT",), channels=("trades", "quotes", "book:50")
    )
}


class TestBybit(VenueContract):
    venue = "bybit"
    markets = MARKETS
    channels = ("trades", "quotes", "book", "book:50", "book:200", "klines:1m", "ticker")
    history = ("listing", "trades", "bars")
    captures = RECORDED


class TestBybitDepths(VenueContract):
    """The words for streams that others name too, and a book that is brought back over REST."""

    venue = "bybit"
    variant = "depths"
    markets = FIRST
    seconds = 30.0
    channels = ("book:1000", "book:1")
    settings = REST
    history = ("book",)
