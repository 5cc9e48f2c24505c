"""The contract tests of a venue, run for Binance."""

from __future__ import annotations

from tapeloom_testing.contract import Capture, VenueContract

SWAPS = ("BTC/USDT:USDT", "ETH/USDT:USDT")


class TestBinance(VenueContract):
    venue = "binance"
    markets = {"spot": ("BTC/USDT", "ETH/USDT"), "usdm": SWAPS, "coinm": ("BTC/USD:BTC",)}
    channels = {
        "spot": ("trades", "agg_trades", "quotes", "book", "book:5", "klines:1m", "ticker"),
        "usdm": ("trades", "quotes", "book", "book:5", "klines:1m", "ticker"),
        "coinm": ("trades", "quotes", "book", "book:5", "klines:1m", "ticker"),
    }
    history = ("listing", "trades", "bars", "book")
    unknown = (
        '{"stream":"!contractInfo","data":{"e":"contractInfo","E":1669647330375,"s":"APTUSD_PERP"}}',
        '{"stream":"tradingSession","data":{"e":"EquityUpdate","E":1791285203779,"S":"PRE_MARKET"}}',
        '{"stream":"!ticker@arr","data":[{"e":"24hrTicker","s":"BNBBTC"}]}',
    )
    captures = {
        "binance_spot/btcusdt_20240808": Capture(
            market="spot", symbols=("BTC/USDT",), channels=("trades", "book", "quotes")
        ),
        "binance_usdm/btcusdt_20240718": Capture(
            market="usdm", symbols=SWAPS[:1], channels=("trades", "book", "quotes")
        ),
        "binance_coinm/ethusd_perp_20240808": Capture(
            market="coinm", symbols=("ETH/USD:ETH",), channels=("trades", "book", "quotes")
        ),
    }


class TestBinanceRaw(VenueContract):
    """Futures with raw and aggregate trades; the history of raw trades needs an API key."""

    venue = "binance"
    variant = "raw"
    markets = {"usdm": SWAPS, "coinm": ("BTC/USD:BTC",)}
    channels = ("trades", "agg_trades", "book:20")
    settings = {"futures_trades": "raw"}
    secrets = {"api_key": "FAKE-KEY-OF-THE-CONTRACT"}
    history = ("trades",)
