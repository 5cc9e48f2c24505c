"""Settings, markets, channels, symbols and addresses, and the errors for wrong ones."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pluggy
import pytest
import tapeloom_binance
from tapeloom import Secret, hooks
from tapeloom.errors import ConfigError, SymbolError
from tapeloom.units import Rate
from tapeloom_binance.symbols import MARKETS

PERP = "BTC/USDT:USDT"


def mistakes(make, hook, market: str, channels: tuple[str, ...], **settings: str) -> list[str]:
    feed = make(symbols=(), **settings)
    feed.market, feed.channels = market, channels
    with pytest.raises(ConfigError) as caught:
        hook(feed)
    return [str(mistake) for mistake in caught.value.mistakes]


def test_spot_is_one_combined_stream(make) -> None:
    (endpoint,) = tapeloom_binance.connect(make())

    assert endpoint.url == "wss://stream.binance.com:9443/stream"
    assert endpoint.channels == {"trades", "agg_trades", "book", "quotes", "klines", "ticker"}
    assert (endpoint.max_subscriptions, endpoint.message_rate) == (1024, Rate(4, 1.0))
    assert (endpoint.dial_rate, endpoint.silence_timeout_seconds, endpoint.max_age_seconds) == (
        Rate(300, 300.0),
        60.0,
        82_800,
    )


@pytest.mark.parametrize(
    ("trades", "of_public", "of_market"),
    [("aggregate", set(), {"trades"}), ("raw", {"trades"}, set())],
)
def test_usdm_has_two_endpoints_and_each_channel_has_one(
    make, trades, of_public, of_market
) -> None:
    public, market = tapeloom_binance.connect(make("usdm", (PERP,), futures_trades=trades))

    assert public.url == "wss://fstream.binance.com/public/stream"
    assert market.url == "wss://fstream.binance.com/market/stream"
    assert public.channels == {"quotes", "book"} | of_public
    assert market.channels == {"agg_trades", "klines", "ticker"} | of_market
    assert (public.name, market.name) == ("public", "market")
    assert (public.max_subscriptions, public.message_rate) == (200, Rate(8, 1.0))


@pytest.mark.parametrize(
    ("settings", "stream", "rest"),
    [
        (
            {"testnet": True},
            "wss://stream.testnet.binance.vision/",
            "https://testnet.binance.vision/",
        ),
        ({"demo": True}, "wss://demo-stream.binance.com/", "https://demo-api.binance.com/"),
        ({"base_url": "ws://h:1"}, "ws://h:1/", "http://h:1/"),
        ({"base_url": "https://h:1/x/"}, "wss://h:1/x/", "https://h:1/x/"),
        ({"ws_url": "ws://h:2"}, "ws://h:2/", "https://api.binance.com/"),
        ({"base_url": "http://h:1", "rest_url": "http://r"}, "ws://h:1/", "http://r/"),
        ({"microseconds": True}, "wss://stream.binance.com:9443/", "https://api.binance.com/"),
    ],
)
def test_every_environment_has_its_addresses(make, settings, stream, rest) -> None:
    feed = make(**settings)
    unit = "?timeUnit=MICROSECOND" if settings == {"microseconds": True} else ""

    assert tapeloom_binance.connect(feed)[0].url == f"{stream}stream{unit}"
    assert tapeloom_binance.history(feed).listing_request().url == f"{rest}api/v3/exchangeInfo"


def test_testnet_and_demo_futures_have_their_addresses(make) -> None:
    for environment in ({"testnet": True}, {"demo": True}):
        feed = make("usdm", (PERP,), **environment, microseconds=True)
        urls = [endpoint.url for endpoint in tapeloom_binance.connect(feed)]

        assert urls == [f"wss://fstream.binancefuture.com/{p}/stream" for p in ("public", "market")]
        assert "demo-fapi" in tapeloom_binance.history(feed).listing_request().url


def test_coinm_has_one_endpoint(make) -> None:
    (endpoint,) = tapeloom_binance.connect(make("coinm", ("BTC/USD:BTC",)))
    (paper,) = tapeloom_binance.connect(make("coinm", ("BTC/USD:BTC",), testnet=True))

    assert endpoint.url == "wss://dstream.binance.com/stream"
    assert endpoint.channels == {"trades", "agg_trades", "book", "quotes", "klines", "ticker"}
    assert (endpoint.max_subscriptions, endpoint.message_rate) == (200, Rate(8, 1.0))
    assert paper.url == "wss://dstream.binancefuture.com/stream"


def test_one_base_url_distinguishes_markets_by_path(make) -> None:
    feeds = [
        make(market, (symbol,), base_url="ws://h:1/x")
        for market, symbol in (("spot", "BTC/USDT"), ("usdm", PERP), ("coinm", "BTC/USD:BTC"))
    ]
    urls = [end.url for feed in feeds for end in tapeloom_binance.connect(feed)]
    rest = [tapeloom_binance.history(feed).listing_request().url for feed in feeds]

    assert urls == [f"ws://h:1/x{path}/stream" for path in ("", "/public", "/market", "/dstream")]
    assert rest == [
        f"http://h:1/x/{path}/exchangeInfo" for path in ("api/v3", "fapi/v1", "dapi/v1")
    ]


def test_symbols_are_named_by_rule(make) -> None:
    spot, usdm, coinm = (tapeloom_binance.subscribe(make(m, ())) for m in ("spot", "usdm", "coinm"))

    assert spot.native("BTC/USDT") == "BTCUSDT"
    assert usdm.native(PERP) == "BTCUSDT"
    assert usdm.native("BTC/USDT:USDT-261225") == "BTCUSDT_261225"
    assert usdm.native("1000PEPE/USDC:USDC") == "1000PEPEUSDC"
    assert coinm.native("BTC/USD:BTC") == "BTCUSD_PERP"
    assert coinm.native("BTC/USD:BTC-260327") == "BTCUSD_260327"


@pytest.mark.parametrize(
    ("market", "symbol", "remedy"),
    [
        ("spot", PERP, 'Set market = "usdm".'),
        ("usdm", "BTC/USDT", 'Set market = "spot".'),
        ("usdm", "BTC/USD:BTC", 'Set market = "coinm".'),
        ("coinm", "BTC/USD:BTC-26", "as in 'BTC/USDT:USDT'"),
        ("coinm", PERP, 'Set market = "usdm".'),
        ("usdm", "BTC/USD:ETH", "Markets are: spot, usdm, coinm."),
        ("spot", "BTCUSDT", "Write 'BTC/USDT'"),
    ],
)
def test_the_error_for_a_symbol_of_another_market_names_that_market(
    make, market, symbol, remedy
) -> None:
    with pytest.raises(SymbolError, match=symbol) as caught:
        tapeloom_binance.subscribe(make(market, ())).native(symbol)

    assert remedy in str(caught.value)


@pytest.mark.parametrize("hook", ["connect", "subscribe", "parse", "history"])
def test_every_hook_rejects_unknown_markets_and_channels(make, hook) -> None:
    call_hook = getattr(tapeloom_binance, hook)

    assert mistakes(make, call_hook, "spott", ()) == [
        "market: binance has no market 'spott'. Did you mean 'spot'?"
    ]
    assert mistakes(make, call_hook, "spot", ("trade", "klines:1m", "book:7")) == [
        "channels: market 'spot' has no channel 'trade'. Did you mean 'trades'?",
        "channels: market 'spot' has no channel 'book:7'. It has: book, book:5, book:10, book:20.",
    ]


@pytest.mark.parametrize(
    ("market", "channel", "expected"),
    [
        ("spot", "funding", "It has: trades, agg_trades, book, quotes, klines, ticker."),
        ("spot", "book:7", "It has: book, book:5, book:10, book:20."),
        ("usdm", "klines:1s", "It has: klines:1m, klines:3m,"),
        ("spot", "klines", "It has: klines:1s,"),
        ("spot", "trades:5", "It has: trades."),
    ],
)
def test_the_error_for_a_wrong_channel_lists_the_valid_ones(
    make, market, channel, expected
) -> None:
    (mistake,) = mistakes(make, tapeloom_binance.parse, market, (channel,))

    assert mistake.startswith(f"channels: market {market!r} has no channel {channel!r}.")
    assert expected in mistake


def test_an_unknown_depth_speed_is_an_error(make) -> None:
    (mistake,) = mistakes(make, tapeloom_binance.connect, "usdm", (), depth_speed="1000ms")

    assert mistake.startswith("venue.binance.depth_speed: market 'usdm' sends books every 100ms or")


def test_two_channels_of_one_stream_are_an_error(make) -> None:
    both = ("trades", "agg_trades")
    (mistake,) = mistakes(make, tapeloom_binance.connect, "usdm", both)

    assert 'set futures_trades = "raw"' in mistake
    assert tapeloom_binance.connect(make("usdm", (PERP,), both, futures_trades="raw"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"testnet": True, "demo": True}, "testnet and demo are two environments"),
        ({"base_url": "localhost:80"}, "base_url must begin with ws://"),
        ({"rest_url": "ftp://x"}, "rest_url must begin with ws://"),
        ({"futures_trades": "both"}, "futures_trades"),
        ({"snapshot_limit": 0}, "snapshot_limit"),
    ],
)
def test_wrong_settings_say_what_is_allowed(settings, expected) -> None:
    with pytest.raises(ValueError, match=expected):
        tapeloom_binance.Settings(**settings)


def test_the_key_is_not_shown(make) -> None:
    feed = make("usdm", (PERP,), api_key=Secret("s3cret"))

    assert feed.settings.api_key.reveal() == "s3cret"
    assert "s3cret" not in f"{feed} {feed.settings} {tapeloom_binance.connect(feed)}"


def test_every_market_states_what_its_streams_and_requests_need() -> None:
    for market in MARKETS.values():
        served = [kind for kinds in market.stream_paths.values() for kind in kinds]

        assert len(served) == len(set(served)) == 6
        assert {"live", "testnet", "demo"} == set(market.hosts)
        assert [*market.depth_weights] == sorted(market.depth_weights)
        assert "100ms" in market.depth_speeds


def test_pluggy_finds_every_hook_also_after_the_server_side_was_imported() -> None:
    def found() -> set[str]:
        manager = pluggy.PluginManager("tapeloom")
        manager.add_hookspecs(hooks)
        manager.register(tapeloom_binance, "binance")
        manager.check_pending()
        return {caller.name for caller in manager.get_hookcallers(tapeloom_binance) or []}

    wanted = {"settings", "connect", "subscribe", "parse", "history"}
    before = found()
    importlib.import_module("tapeloom_binance.simulator")

    assert before == found() == wanted


def test_a_client_does_not_import_the_server_side() -> None:
    code = "import sys, tapeloom_binance; print('tapeloom_binance.simulator' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert out.stdout.strip() == "False"
