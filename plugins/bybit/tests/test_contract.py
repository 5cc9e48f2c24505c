"""The contract tests of a venue, run for Bybit."""

from __future__ import annotations

from tapeloom_testing.contract import Capture, VenueContract

MARKETS = {"spot": ("BTC/USDT", "ETH/USDT"), "linear": ("BTC/USDT:USDT", "ETH/USDC:USDC")}
FIRST_SYMBOLS = {market: symbols[:1] for market, symbols in MARKETS.items()}
REST_RESYNC = {"resync": "rest"}
CAPTURES = {
    "bybit/v5_spot_testnet_20260913": Capture(
        market="spot", symbols=("BTC/USDT",), channels=("trades", "quotes", "book:50")
    )
}


class TestBybit(VenueContract):
    venue = "bybit"
    markets = MARKETS
    channels = ("trades", "quotes", "book", "book:50", "book:200", "klines:1m", "ticker")
    history = ("listing", "trades", "bars")
    unknown = (
        '{"topic":"insurance.USDT","type":"delta","ts":1747722930000,"data":[{"coin":"USDT"}]}',
        '{"topic":"allLiquidation.ROSEUSDT","type":"snapshot","ts":1739502303204,"data":[]}',
    )
    captures = CAPTURES


class TestBybitDepths(VenueContract):
    """Channels that are aliases of others, and a book that is resynced over REST."""

    venue = "bybit"
    variant = "depths"
    markets = FIRST_SYMBOLS
    seconds = 30.0
    channels = ("book:1000", "book:1")
    settings = REST_RESYNC
    history = ("book",)
