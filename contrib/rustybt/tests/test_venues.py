"""Each adapter of the guide's exchanges and brokers against its venue's simulator."""

import asyncio
import importlib
import inspect
import time

import anyio
import pytest
import tapeloom
import tapeloom_rustybt
from tapeloom import Quote
from tapeloom_rustybt import (
    AlpacaBrokerAdapter,
    BinanceWebSocketAdapter,
    BybitWebSocketAdapter,
    CCXTWebSocketAdapter,
    HyperliquidWebSocketAdapter,
    IBBrokerAdapter,
    StreamManager,
    WebSocketAdapter,
)


def need(*packages):
    for name in packages:
        pytest.importorskip(name, reason=f"needs {name.replace('_', '-')} and its simulated venue")


async def check(adapter, sim, symbol, take, true_bars, prices, given=None, seconds=60):
    """The second bar is the first whole one: it must equal the trades that make it."""
    await adapter.connect()
    await adapter.subscribe([given or symbol])
    bars = await take(await adapter.stream(), count=3)
    await adapter.disconnect()
    truth = true_bars(sim, symbol, seconds)
    whole = [bar for bar in bars if bar.complete]

    assert {bar.symbol for bar in bars} == {symbol}
    assert len(whole) >= 2
    assert [prices(bar) for bar in whole] == [truth[bar.ts] for bar in whole]


async def test_bybit_streams_perpetuals(simulate, take, true_bars, prices):
    need("tapeloom_bybit", "tapeloom_bybit.simulator")
    async with simulate("bybit", symbols=["BTC/USDT:USDT"]) as sim:
        adapter = BybitWebSocketAdapter(**sim.settings)
        await check(adapter, sim, "BTC/USDT:USDT", take, true_bars, prices, "BTC-PERP")


async def test_hyperliquid_streams_perpetuals(simulate, take, true_bars, prices):
    need("tapeloom_hyperliquid", "tapeloom_hyperliquid.simulator")
    async with simulate("hyperliquid", symbols=["BTC/USDC:USDC"]) as sim:
        adapter = HyperliquidWebSocketAdapter(**sim.settings)
        await check(adapter, sim, "BTC/USDC:USDC", take, true_bars, prices, "BTC-PERP")


@pytest.mark.parametrize(
    ("venue", "adapter", "symbol", "channel"),
    [
        ("binance", BinanceWebSocketAdapter, "BTC/USDT", "book"),
        ("bybit", BybitWebSocketAdapter, "BTC/USDT:USDT", "book"),
        ("hyperliquid", HyperliquidWebSocketAdapter, "BTC/USDC:USDC", "book:20"),
    ],
)
async def test_order_books_are_streamed_beside_the_bars(simulate, venue, adapter, symbol, channel):
    """Each book's best bid and ask is one that the venue has had at that time."""
    need(f"tapeloom_{venue}", "tapeloom_books")
    async with simulate(venue, symbols=[symbol], speed=60.0, rate=20.0) as sim:
        made = adapter(
            channels=["trades", channel],
            symbols=[symbol],
            stages={"books": {"channels": [channel]}},
            **sim.settings,
        )
        async with made:
            books = made.tapeloom.of(Quote)
            with anyio.fail_after(20):
                best = [await anext(books) for _ in range(5)]
            await (await made.stream()).get()
        had = {(quote.bid, quote.ask) for quote in sim.truth.quotes(symbol)}

    assert {quote.origin for quote in best} == {"built_from_book"}
    assert {(quote.bid, quote.ask) for quote in best} <= had


async def test_two_venues_stream_at_the_same_time_as_the_guide_has_it(simulate):
    need("tapeloom_bybit", "tapeloom_bybit.simulator")
    async with (
        simulate() as sim,
        simulate("bybit", symbols=["BTC/USDT:USDT"]) as other,
        StreamManager() as manager,
    ):
        binance = BinanceWebSocketAdapter(**sim.settings)
        bybit = BybitWebSocketAdapter(**other.settings)
        await asyncio.gather(
            manager.add_stream("binance", binance, ["BTC/USDT"]),
            manager.add_stream("bybit", bybit, ["BTC-PERP"]),
        )
        with anyio.fail_after(20):
            bars = [await manager.get_next(name) for name in ("binance", "bybit")]

    assert [(bar.venue, bar.symbol) for bar in bars] == [
        ("binance", "BTC/USDT"),
        ("bybit", "BTC/USDT:USDT"),
    ]


async def test_alpaca_is_polled(simulate, take, true_bars, prices):
    need("tapeloom_alpaca", "tapeloom_alpaca.simulator")
    now = time.time_ns() // 10**9 * 10**9
    market = {"speed": 1.0, "rate": 300.0, "start": "now", "epoch": now}
    async with simulate("alpaca", symbols=["AAPL/USD"], **market) as sim:
        adapter = AlpacaBrokerAdapter(
            api_key="fake-key",
            api_secret="fake-secret",
            interval="200ms",
            stages={"bars": {"lateness": "600ms"}},
            rest_limit=10_000,
            poll_every="100ms",
            poll_delay="0ms",
            **sim.settings,
        )
        await check(adapter, sim, "AAPL/USD", take, true_bars, prices, seconds=0.2)

        assert sim.truth.connections == []  # no WebSocket was opened


async def test_interactive_brokers_streams_stocks(simulate, take, true_bars, prices):
    need("tapeloom_ib", "tapeloom_ib.simulator", "ib_async")
    async with simulate("ib", symbols=["AAPL/USD"]) as sim:
        adapter = IBBrokerAdapter(**sim.settings)
        await check(adapter, sim, "AAPL/USD", take, true_bars, prices)


@pytest.mark.slow  # ccxt takes seconds to import
async def test_ccxt_streams_an_exchange_by_its_name(simulate, take, true_bars, prices):
    need("tapeloom_ccxt", "tapeloom_ccxt.source", "ccxt")
    async with simulate(symbols=["BTC/USDT"]) as sim:
        rest, ws = f"{sim.url}/api/v3", sim.url.replace("http", "ws", 1)
        adapter = CCXTWebSocketAdapter(
            exchange_id="binance",
            options={"fetchMarkets": {"types": ["spot"]}},
            urls={"api": {"public": rest, "v1": rest, "ws": {"spot": f"{ws}/stream.sim/ws"}}},
        )
        await check(adapter, sim, "BTC/USDT", take, true_bars, prices)


CLASSES = [value for value in vars(tapeloom_rustybt).values() if inspect.isclass(value)]
ADAPTERS = [cls for cls in CLASSES if issubclass(cls, WebSocketAdapter) and hasattr(cls, "venue")]
#: Where the guide, or RustyBT itself, has each.
HOMES = {
    BinanceWebSocketAdapter: "streaming.binance_stream",
    BybitWebSocketAdapter: "streaming.bybit_stream",
    HyperliquidWebSocketAdapter: "streaming.hyperliquid_stream",
    CCXTWebSocketAdapter: "streaming.ccxt_stream",
    IBBrokerAdapter: "brokers.ib_adapter",
    AlpacaBrokerAdapter: "brokers.alpaca_adapter",
}


@pytest.mark.parametrize("cls", ADAPTERS, ids=lambda cls: cls.__name__)
def test_every_adapter_has_the_guides_import_path(cls):
    home = importlib.import_module(f"tapeloom_rustybt.live.{HOMES[cls]}")
    package = importlib.import_module(home.__name__.rpartition(".")[0])

    assert getattr(home, cls.__name__) is getattr(package, cls.__name__) is cls
    assert home.__all__ == [cls.__name__]


@pytest.mark.parametrize("cls", ADAPTERS, ids=lambda cls: cls.__name__)
def test_adapters_only_define_their_venue(cls):
    """But for ccxt's, whose first argument is the exchange."""
    own = {name for name in vars(cls) if not name.startswith("__")}
    own |= {"__init__"} & vars(cls).keys()

    assert own == ({"venue", "__init__"} if cls is CCXTWebSocketAdapter else {"venue"})


@pytest.mark.parametrize(
    "cls",
    # ccxt takes seconds to import.
    [
        pytest.param(cls, marks=[pytest.mark.slow] * (cls is CCXTWebSocketAdapter))
        for cls in ADAPTERS
    ],
    ids=lambda cls: cls.__name__,
)
def test_the_guides_arguments_are_settings_of_the_venues_plugin(cls):
    plugin = cls.venue.plugin
    need(f"tapeloom_{plugin}", "tapeloom_bars", "tapeloom_quality")
    more = {"exchange_id": "binance"} if cls is CCXTWebSocketAdapter else {}
    adapter = cls(api_key="fake-key", api_secret="fake-secret", testnet=True, **more)
    (plan,) = tapeloom.open(adapter.stack()).plans  # everything is read, and nobody dialled
    settings = plan.feed.settings
    if cls.venue.per_market:
        settings = getattr(settings, cls.venue.per_market)["binance"]

    assert {getattr(settings, name) for name in cls.venue.testnet} == {True}
    keys = [getattr(settings, name, None) for name in (cls.venue.key, cls.venue.secret)]
    assert {key.reveal() for key in keys if key} <= {"fake-key", "fake-secret"}
    assert "fake-key" not in repr(plan)
