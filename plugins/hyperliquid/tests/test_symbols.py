"""Settings, addresses, limits, and names of symbols."""

from __future__ import annotations

import pytest
import tapeloom_hyperliquid
from tapeloom.errors import ConfigError, SymbolError
from tapeloom_hyperliquid import Settings

MAIN, TEST = "api.hyperliquid.xyz", "api.hyperliquid-testnet.xyz"


@pytest.mark.parametrize(
    ("settings", "stream", "rest"),
    [
        ({}, f"wss://{MAIN}/ws", f"https://{MAIN}/info"),
        ({"testnet": True}, f"wss://{TEST}/ws", f"https://{TEST}/info"),
        ({"base_url": "http://127.0.0.1:1/"}, "ws://127.0.0.1:1/ws", "http://127.0.0.1:1/info"),
        ({"base_url": "wss://x"}, "wss://x/ws", "https://x/info"),
        ({"ws_url": "ws://a"}, "ws://a/ws", f"https://{MAIN}/info"),
        ({"rest_url": "http://b"}, f"wss://{MAIN}/ws", "http://b/info"),
    ],
)
def test_addresses_follow_from_the_settings(make, settings, stream, rest) -> None:
    feed = make(**settings)
    (endpoint,) = tapeloom_hyperliquid.connect(feed)

    assert endpoint.url == stream
    assert tapeloom_hyperliquid.history(feed).listing_request().url == rest


def test_the_limits_of_an_address_are_declared(make) -> None:
    (endpoint,) = tapeloom_hyperliquid.connect(make())
    dials, messages = endpoint.dial_rate, endpoint.host_message_rate

    assert (endpoint.max_connections, endpoint.max_subscriptions) == (10, 1000)
    assert (dials.count, dials.seconds) == (30, 60)
    assert (messages.count, messages.seconds) == (2000, 60)
    assert endpoint.heartbeat.message == '{"method":"ping"}'
    assert endpoint.heartbeat.interval_seconds < endpoint.silence_timeout_seconds / 2 < 30


@pytest.mark.parametrize(
    ("market", "symbol", "native"),
    [
        ("perp", "BTC/USDC:USDC", "BTC"),
        ("perp", "KPEPE/USDC:USDC", "kPEPE"),
        ("perp", "KAITO/USDC:USDC", "KAITO"),
        ("perp", "XYZ.TSLA/USDC:USDC", "xyz:TSLA"),
        ("perp", "FLX.GOLD/USDH:USDH", "flx:GOLD"),
        ("spot", "PURR/USDC", "PURR/USDC"),
        ("spot", "HYPE/USDC", "@107"),
        ("spot", "BTC/USDC", "BTC/USDC"),
    ],
)
def test_native_names_follow_from_rules(make, market, symbol, native) -> None:
    codec = tapeloom_hyperliquid.subscribe(make(market, (symbol,)))

    assert codec.native(symbol) == native


def test_mainnet_pair_numbers_are_not_used_on_testnet(make) -> None:
    codec = tapeloom_hyperliquid.subscribe(make("spot", ("HYPE/USDC",), testnet=True))

    assert codec.native("HYPE/USDC") == "HYPE/USDC"


@pytest.mark.parametrize(
    ("market", "symbol"),
    [
        ("perp", "BTC/USDC"),
        ("perp", "BTC/USDC:BTC"),
        ("perp", "BTC/USDC:USDC-261225"),
        ("perp", "nonsense"),
        ("spot", "BTC/USDC:USDC"),
    ],
)
def test_a_symbol_of_another_market_is_refused(make, market, symbol) -> None:
    codec = tapeloom_hyperliquid.subscribe(make(market, ()))
    with pytest.raises(SymbolError, match=symbol.partition("/")[0]):
        codec.native(symbol)


@pytest.mark.parametrize(
    ("market", "symbols", "channels", "texts"),
    [
        ("perps", (), ("trades",), ["market", "perps", "Did you mean 'perp'?"]),
        ("perp", (), ("book",), ["'book'", "book:20, book:5"]),
        ("perp", (), ("book:10",), ["'book:10'", "book:20, book:5"]),
        ("perp", (), ("klines:1s",), ["'klines:1s'", "klines:1m"]),
        ("perp", (), ("agg_trades",), ["'agg_trades'", "trades, quotes, book"]),
        (
            "perp",
            ("A.X/USDC:USDC", "B.X/USDC:USDC"),
            ("trades",),
            ["a, b", "one feed per exchange"],
        ),
        ("perp", ("X/USDC:USDC", "B.X/USDC:USDC"), ("trades",), ["b, the venue itself"]),
    ],
)
def test_unknown_markets_and_channels_are_refused(make, market, symbols, channels, texts) -> None:
    with pytest.raises(ConfigError) as caught:
        make(market, symbols, channels)

    for text in texts:
        assert text in str(caught.value)


def test_a_feed_above_the_subscription_limit_is_refused(make) -> None:
    symbols = tuple(f"C{number}/USDC:USDC" for number in range(501))
    make("perp", symbols[:500], ("trades", "quotes"))
    with pytest.raises(ConfigError, match="these are 1002"):
        make("perp", symbols, ("trades", "quotes"))


def test_all_mistakes_are_reported_at_once(make) -> None:
    with pytest.raises(ConfigError) as caught:
        make("perp", ("A.X/USDC:USDC", "X/USDC:USDC"), ("book", "klines:1s"))

    assert len(caught.value.mistakes) == 3


@pytest.mark.parametrize(
    "settings", [{"base_url": "127.0.0.1"}, {"ws_url": "x"}, {"remembered_trades": 99}]
)
def test_settings_are_checked(settings) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Settings(**settings)


def test_durations_are_written_with_units() -> None:
    assert Settings(bar_grace="2s").bar_grace == 2_000_000_000
    with pytest.raises(ValueError, match="duration"):
        Settings(bar_grace="soon")
