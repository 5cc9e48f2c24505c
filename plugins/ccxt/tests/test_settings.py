"""The stack's table, what is wrong with it, and what it costs who does not use it."""

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
from tapeloom_ccxt.exchange import Maker


def opened(market: str, *channels: str, **table: Any) -> Any:
    feed = FeedSpec("ccxt", ("BTC/USDT",), channels, market=market)
    return tapeloom.open(Stack(feeds=(feed,), venues={"ccxt": table}))


def problem(market: str, *channels: str, **table: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        opened(market, *channels, **table)
    return str(caught.value)


@pytest.mark.parametrize(
    ("market", "channels", "words"),
    [
        ("", ["trades"], ["feed[0].market", 'market = "kraken"']),
        ("binanc", ["trades"], ["Did you mean 'binance'?"]),
        ("zebpay", ["trades"], ["cannot watch it"]),
        ("binance", ["agg_trades"], ["no channel 'agg_trades'", "klines", "quotes", "ticker"]),
        ("hyperliquid", ["quotes"], ["no channel 'quotes'", "trades"]),
        ("binance", ["klines:7m"], ["'klines:7m'", "1m", "1h"]),
        ("binance", ["book:ten"], ["'book:ten'", "whole number"]),
        ("binance", ["trades:x"], ["takes no parameter"]),
    ],
)
def test_what_an_exchange_does_not_have_is_refused_with_what_it_has(
    market: str, channels: list[str], words: list[str]
):
    text = problem(market, *channels)

    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"sandbox": True, "demo": True}, "two environments"),
        ({"apikey": 1}, "Did you mean 'api_key'?"),
        ({"api_key": "fake-key"}, "must not be in the stack"),
        ({"trades_limit": 0}, "trades_limit"),
        ({"stall": 0}, "stall"),
    ],
)
def test_what_is_wrong_with_the_table_of_an_exchange_is_told_with_its_place(
    table: dict[str, Any], words: str
):
    text = problem("binance", "trades", exchanges={"binance": table})

    assert "venue.ccxt.exchanges.binance" in text
    assert words in text
    assert "fake-key" not in text


def test_feeds_of_different_exchanges_stand_in_one_stack_and_tell_their_exchange():
    feeds = [FeedSpec("ccxt", ("BTC/USDT",), ("trades",), market=m) for m in ("binance", "bybit")]
    stream = tapeloom.open(Stack(feeds=feeds))

    assert [spec.name for spec in stream.stack.feeds] == ["ccxt", "ccxt-bybit"]
    assert [plan.feed.venue for plan in stream.plans] == ["ccxt-binance", "ccxt-bybit"]


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_it_is_refused_on_trio():
    async with opened("binance", "trades") as stream:
        with pytest.raises(BackendUnsupported, match="asyncio"):
            assert [event async for event in stream]


def test_options_and_addresses_are_laid_over_those_of_ccxt():
    table = ExchangeSettings(
        hostname="example.test",
        options={"fetchMarkets": {"types": ["spot"]}},
        urls={"api": {"public": "http://127.0.0.1:1/api", "ws": {"spot": "ws://127.0.0.1:1/ws"}}},
        trades_limit=77,
        silence=9.0,
    )
    made = Maker("binance", table)()

    assert made.hostname == "example.test"
    assert made.options["fetchMarkets"]["types"] == ["spot"]
    assert made.options["tradesLimit"] == 77
    assert made.urls["api"]["public"] == "http://127.0.0.1:1/api"
    assert made.urls["api"]["ws"]["spot"] == "ws://127.0.0.1:1/ws"
    assert made.urls["api"]["ws"].keys() > {"spot"}, "what is not named stays"
    assert made.streaming["keepAlive"] == 3000


def test_credentials_reach_ccxt_and_no_message():
    maker = Maker("binance", ExchangeSettings(api_key=Secret("fake-key"), secret=Secret("fake-s")))

    assert (maker().apiKey, maker().secret) == ("fake-key", "fake-s")
    assert maker.hide("key fake-key\nand fake-s") == "key *** and ***"
    assert "fake" not in repr(maker._settings)


def test_ccxt_reads_every_number_with_its_digits():
    made = Maker("binance", ExchangeSettings())()
    where = {"p": "0.10", "q": 0.1, "n": "NaN", "d": Decimal("2E-8")}

    assert str(made.safe_float(where, "p")) == str(made.safe_number(where, "p")) == "0.10"
    assert made.safe_float_2(where, "x", "q") == Decimal("0.1")
    assert made.safe_float_n(where, ["x", "n", "p"]) == Decimal("0.10")
    assert made.safe_float(where, "n", 7) == 7
    assert made.safe_string(where, "d") == "0.00000002", "a number that was made is read again"
    assert made.safe_string_2(where, "x", "p") == "0.10"
    assert made.safe_string(where, "x", "none") == "none"


def test_the_snapshot_and_the_differences_of_a_book_name_a_level_alike():
    made = Maker("binance", ExchangeSettings())()
    book = made.order_book(made.parse_order_book({"bids": [["61250.10", "1"]], "asks": []}, "B"))
    made.handle_delta(book["bids"], ["61250.10", "0"])

    assert list(book["bids"]) == []


def test_ccxt_is_not_imported_before_a_feed_needs_it():
    code = (
        "import sys, tapeloom; tapeloom.Registry().describe(); import tapeloom_ccxt;"
        " tapeloom_ccxt.settings(); sys.exit('ccxt' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_settings_are_what_the_hook_says():
    assert tapeloom_ccxt.settings() is tapeloom_ccxt.Settings
