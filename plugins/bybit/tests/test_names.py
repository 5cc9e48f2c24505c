"""Settings, markets, channels, symbols and addresses, and the errors for wrong ones."""

from __future__ import annotations

import pytest
import tapeloom_bybit
from tapeloom.errors import ConfigError, SymbolError
from tapeloom.plugin import Heartbeat
from tapeloom.units import Rate
from tapeloom_bybit.names import DEPTHS, INTERVALS

HOOKS = ("connect", "subscribe", "parse", "history")


def mistakes(make, hook: str, market: str, *channels: str) -> list[str]:
    feed = make()
    feed.market, feed.channels = market, channels
    with pytest.raises(ConfigError) as caught:
        getattr(tapeloom_bybit, hook)(feed)
    return [str(mistake) for mistake in caught.value.mistakes]


def test_a_market_is_one_endpoint_with_the_limits_of_the_venue(make) -> None:
    (endpoint,) = tapeloom_bybit.connect(make("linear"))

    assert endpoint.url == "wss://stream.bybit.com/v5/public/linear"
    assert endpoint.heartbeat == Heartbeat(20.0, '{"op":"ping"}')
    assert (endpoint.dial_rate, endpoint.max_connections) == (Rate(500, 300.0), 1000)
    assert endpoint.silence_timeout_seconds > 2 * endpoint.heartbeat.interval_seconds


def test_a_feed_that_names_no_market_means_spot(make) -> None:
    feed = make()
    feed.market = ""

    assert tapeloom_bybit.connect(feed)[0].url.endswith("/v5/public/spot")


@pytest.mark.parametrize(
    ("settings", "stream", "rest"),
    [
        ({}, "wss://stream.bybit.com", "https://api.bybit.com"),
        ({"testnet": True}, "wss://stream-testnet.bybit.com", "https://api-testnet.bybit.com"),
        ({"demo": True}, "wss://stream.bybit.com", "https://api-demo.bybit.com"),
        ({"base_url": "http://127.0.0.1:9/"}, "ws://127.0.0.1:9", "http://127.0.0.1:9"),
        ({"base_url": "wss://sim.example"}, "wss://sim.example", "https://sim.example"),
        (
            {"ws_url": "wss://stream.bybit.kz", "rest_url": "https://api.bytick.com/"},
            "wss://stream.bybit.kz",
            "https://api.bytick.com",
        ),
    ],
)
def test_each_environment_has_its_hosts(make, settings, stream, rest) -> None:
    feed = make(**settings)

    assert tapeloom_bybit.connect(feed)[0].url == f"{stream}/v5/public/spot"
    assert tapeloom_bybit.history(feed).listing_request().url.startswith(f"{rest}/v5/market/")


@pytest.mark.parametrize(
    ("market", "symbol", "native"),
    [
        ("spot", "BTC/USDT", "BTCUSDT"),
        ("spot", "ETH/BTC", "ETHBTC"),
        ("linear", "BTC/USDT:USDT", "BTCUSDT"),
        ("linear", "1000PEPE/USDT:USDT", "1000PEPEUSDT"),
        ("linear", "BTC/USDC:USDC", "BTCPERP"),
        ("linear", "BTC/USDC:USDC-251226", "BTC-26DEC25"),
        ("linear", "BTC/USDT:USDT-260306", "BTCUSDT-06MAR26"),
    ],
)
def test_symbols_have_the_names_of_the_venue(make, market, symbol, native) -> None:
    assert tapeloom_bybit.subscribe(make(market)).native(symbol) == native


@pytest.mark.parametrize(
    ("market", "symbol", "remedy"),
    [
        ("spot", "BTC/USDT:USDT", 'Set market = "linear".'),
        ("linear", "BTC/USDT", 'Set market = "spot".'),
        ("linear", "BTC/USD:BTC", "Inverse contracts are not supported."),
        ("spot", "BTC", "is not a unified symbol"),
        ("linear", "BTC/USDT:USDT-251301", "has no valid month"),
    ],
)
def test_the_error_for_a_symbol_of_another_market_names_that_market(
    make, market, symbol, remedy
) -> None:
    with pytest.raises(SymbolError, match=remedy):
        tapeloom_bybit.subscribe(make(market)).native(symbol)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_mistake_of_a_feed_is_reported_at_once(make, hook) -> None:
    market, *channels = mistakes(make, hook, "linaer", "trades", "agg_trades", "book:20")

    assert market == "market: bybit has no market 'linaer'. Did you mean 'linear'?"
    assert [mistake.partition(". ")[0] for mistake in channels] == [
        "channels: bybit has no channel 'agg_trades'",
        "channels: bybit has no channel 'book:20'",
    ]
    assert all(f"book:{levels}" in channels[1] for levels in DEPTHS)
    assert all(f"klines:{interval}" in channels[1] for interval in INTERVALS)


@pytest.mark.parametrize("pair", [("quotes", "book:1"), ("book", "book:1000")])
def test_two_channels_of_one_stream_are_an_error(make, pair) -> None:
    (mistake,) = mistakes(make, "connect", "spot", *pair)

    assert f"{pair[0]!r} and {pair[1]!r} are the same stream" in mistake


@pytest.mark.parametrize("channel", ["trades:1", "quotes:1", "klines", "klines:8h", "book:x"])
def test_a_parameter_that_a_channel_does_not_have_is_refused(make, channel) -> None:
    assert len(mistakes(make, "connect", "spot", channel)) == 1


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"demo": True, "testnet": True}, "exclude each other"),
        ({"ws_url": "stream.example.com"}, "ws_url = 'stream.example.com': expected an address"),
        ({"book_depth": 1}, "book_depth"),
        ({"unchecked": [25]}, "unchecked"),
        ({"resync": "never"}, "resync"),
    ],
)
def test_wrong_settings_are_refused(settings, expected) -> None:
    with pytest.raises(ValueError, match=expected):
        tapeloom_bybit.Settings(**settings)
