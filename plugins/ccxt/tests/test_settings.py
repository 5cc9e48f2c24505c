"""The settings of exchanges, the errors for wrong ones, and the patched ccxt object."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest
import tapeloom
import tapeloom_ccxt
from tapeloom import FeedSpec, Secret, Stack
from tapeloom.errors import BackendUnsupported, ConfigError
from tapeloom_ccxt import ExchangeSettings
from tapeloom_ccxt.exchange import ExchangeFactory


def opened(market: str, *channels: str, **table: Any) -> Any:
    feed = FeedSpec("ccxt", ("BTC/USDT",), channels, market=market)
    return tapeloom.open(Stack(feeds=(feed,), venues={"ccxt": table}))


def problem(market: str, *channels: str, **table: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        opened(market, *channels, **table)
    return str(caught.value)


@pytest.mark.parametrize(
    ("market", "channels", "texts"),
    [
        ("", ["trades"], ["feed[0].market", 'market = "kraken"']),
        ("binanc", ["trades"], ["Did you mean 'binance'?"]),
        ("zebpay", ["trades"], ["cannot be watched"]),
        ("binance", ["agg_trades"], ["no channel 'agg_trades'", "klines", "quotes", "ticker"]),
        ("hyperliquid", ["quotes"], ["no channel 'quotes'", "trades"]),
        ("binance", ["klines:7m"], ["'klines:7m'", "1m", "1h"]),
        ("binance", ["book:ten"], ["'book:ten'", "whole number"]),
        ("binance", ["trades:x"], ["takes no parameter"]),
    ],
)
def test_the_error_for_an_unknown_channel_lists_the_known_ones(
    market: str, channels: list[str], texts: list[str]
):
    text = problem(market, *channels)

    assert all(text in text for text in texts), text


@pytest.mark.parametrize(
    ("table", "texts"),
    [
        ({"sandbox": True, "demo": True}, "different environments"),
        ({"apikey": 1}, "Did you mean 'api_key'?"),
        ({"api_key": "fake-key"}, "must not be in the stack"),
        ({"trades_limit": 0}, "trades_limit"),
        ({"stall": 0}, "stall"),
    ],
)
def test_mistakes_in_an_exchange_table_name_the_setting(table: dict[str, Any], texts: str):
    text = problem("binance", "trades", exchanges={"binance": table})

    assert "venue.ccxt.exchanges.binance" in text
    assert texts in text
    assert "fake-key" not in text


def test_feeds_of_different_exchanges_have_different_venues():
    feeds = [FeedSpec("ccxt", ("BTC/USDT",), ("trades",), market=m) for m in ("binance", "bybit")]
    stream = tapeloom.open(Stack(feeds=feeds))

    assert [spec.name for spec in stream.stack.feeds] == ["ccxt", "ccxt-bybit"]
    assert [plan.feed.venue for plan in stream.plans] == ["ccxt-binance", "ccxt-bybit"]


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_trio_is_refused():
    async with opened("binance", "trades") as stream:
        with pytest.raises(BackendUnsupported, match="asyncio"):
            assert [event async for event in stream]


def test_options_and_urls_are_merged_into_those_of_ccxt():
    table = ExchangeSettings(
        hostname="example.test",
        options={"fetchMarkets": {"types": ["spot"]}},
        urls={"api": {"public": "http://127.0.0.1:1/api", "ws": {"spot": "ws://127.0.0.1:1/ws"}}},
        trades_limit=77,
        silence=9.0,
    )
    made = ExchangeFactory("binance", table)()

    assert made.hostname == "example.test"
    assert made.options["fetchMarkets"]["types"] == ["spot"]
    assert made.options["tradesLimit"] == 77
    assert made.urls["api"]["public"] == "http://127.0.0.1:1/api"
    assert made.urls["api"]["ws"]["spot"] == "ws://127.0.0.1:1/ws"
    assert made.urls["api"]["ws"].keys() > {"spot"}, "what is not named stays"
    assert made.streaming["keepAlive"] == 3000


def test_credentials_reach_ccxt_and_are_not_shown():
    maker = ExchangeFactory(
        "binance", ExchangeSettings(api_key=Secret("fake-key"), secret=Secret("fake-s"))
    )

    assert (maker().apiKey, maker().secret) == ("fake-key", "fake-s")
    assert maker.hide("key fake-key\nand fake-s") == "key *** and ***"
    assert "fake" not in repr(maker._settings)


def test_ccxt_reads_every_number_with_its_digits():
    made = ExchangeFactory("binance", ExchangeSettings())()
    where = {"p": "0.10", "q": 0.1, "n": "NaN", "d": Decimal("2E-8")}

    assert str(made.safe_float(where, "p")) == str(made.safe_number(where, "p")) == "0.10"
    assert made.safe_float_2(where, "x", "q") == Decimal("0.1")
    assert made.safe_float_n(where, ["x", "n", "p"]) == Decimal("0.10")
    assert made.safe_float(where, "n", 7) == 7
    assert made.safe_string(where, "d") == "0.00000002", "a number that was made is read again"
    assert made.safe_string_2(where, "x", "p") == "0.10"
    assert made.safe_string(where, "x", "none") == "none"


def test_snapshots_and_deltas_of_a_book_have_equal_prices():
    made = ExchangeFactory("binance", ExchangeSettings())()
    book = made.order_book(made.parse_order_book({"bids": [["61250.10", "1"]], "asks": []}, "B"))
    made.handle_delta(book["bids"], ["61250.10", "0"])

    assert list(book["bids"]) == []


def test_ccxt_is_not_imported_before_a_feed_needs_it():
    code = (
        "import sys, tapeloom; tapeloom.Registry().describe(); import tapeloom_ccxt;"
        " tapeloom_ccxt.settings(); sys.exit('ccxt' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_hook_returns_the_settings_class():
    assert tapeloom_ccxt.settings() is tapeloom_ccxt.Settings
