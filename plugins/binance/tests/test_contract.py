"""The contract tests of a venue, run for Binance."""

from __future__ import annotations

from types import ModuleType

import tapeloom_binance
from attrs import evolve
from tapeloom import Registry
from tapeloom.events import Book, Event
from tapeloom.hooks import hookimpl
from tapeloom.plugin import Feed, Frames, Parse
from tapeloom_testing.contract import Capture, ContractViolation, VenueContract

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


@hookimpl
def parse(feed: Feed) -> Parse:
    """A parser with a defect: it drops the field `pu` of the books of futures."""
    parse_all = tapeloom_binance.parse(feed)

    def dropping(frames: Frames) -> list[Event]:
        return [
            evolve(event, previous_id=None) if type(event) is Book else event
            for event in parse_all(frames)
        ]

    return dropping


class Dropping(VenueContract):
    venue = "binance"
    markets = {"usdm": SWAPS[:1]}
    channels = ("book",)
    seconds = 20.0

    def registry(self) -> Registry:
        registry, hooks = Registry({}), vars(tapeloom_binance)
        names = ("settings", "connect", "subscribe", "history")
        plugin = ModuleType("dropping")
        vars(plugin).update(parse=parse, **{name: hooks[name] for name in names})
        registry.register(plugin, "binance")
        return registry


def test_a_parser_that_drops_the_previous_id_breaks_the_contract() -> None:
    assert isinstance(Dropping().outcome("book", "usdm"), ContractViolation)
