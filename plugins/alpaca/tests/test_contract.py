"""The venue contract for Alpaca, streamed and polled."""

from __future__ import annotations

from tapeloom_testing.contract import Capture, VenueContract

LESS = {"sides stocks": "the venue does not tell who took a stock's trade"}


class TestAlpaca(VenueContract):
    venue = "alpaca"
    markets = {"stocks": ("AAPL/USD", "MSFT/USD"), "crypto": ("BTC/USD", "ETH/USD")}
    channels = {
        "stocks": ("trades", "quotes", "klines:1m", "klines:1d", "x-statuses", "x-lulds"),
        "crypto": ("trades", "quotes", "book", "klines:1m", "klines:1d"),
    }
    history = {"stocks": ("listing", "trades", "bars"), "crypto": ("listing", "trades", "bars")}
    unit = 1
    unknown = ('[{"T":"n","id":24843171,"headline":"Apple Leader","symbols":["AAPL"]}]',)
    without = LESS
    secrets = {"key_id": "PKNOTAKEY", "secret_key": "not-a-secret-either"}
    captures = {
        "alpaca/docs_message_examples": Capture(
            market="stocks",
            symbols=("AAPL/USD", "AMD/USD", "SPY/USD", "EEM/USD", "GOOGL/USD", "IONM/USD"),
            channels=("trades", "quotes", "klines:1m", "klines:1d", "x-statuses", "x-lulds"),
        ),
        "alpaca/docs_transcript_test_stream": Capture(
            market="stocks", symbols=("FAKEPACA/USD",), channels=("quotes", "klines:1m")
        ),
    }


class TestAlpacaPolled(VenueContract):
    venue = "alpaca"
    variant = "poll"
    markets = TestAlpaca.markets
    channels = {
        "stocks": ("trades", "quotes", "klines:1m", "klines:1d"),
        "crypto": ("trades", "quotes", "book", "klines:1m", "klines:1d"),
    }
    settings = {
        "mode": "poll", "poll_every": "250ms", "poll_bars_every": "300ms", "poll_delay": "0s",
        "rest_limit": 100_000,
    }  # fmt: skip
    history = {
        "stocks": ("listing", "trades", "bars"),
        "crypto": ("listing", "trades", "bars", "book"),
    }
    unit = 1
    without = LESS
    secrets = TestAlpaca.secrets
    speed = 100.0
