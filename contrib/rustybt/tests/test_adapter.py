"""The adapter beyond the guide's programs: errors, lifetime, keys, and broker calls."""

import asyncio
import contextlib
import logging
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace

import anyio
import pytest
import structlog
from tapeloom.errors import (
    ConfigError,
    ConnectionFailed,
    PluginNotFound,
    SubscriptionRefused,
    SymbolError,
)
from tapeloom_rustybt import BinanceWebSocketAdapter, OHLCVBar, StreamEnded, Venue, WebSocketAdapter
from tapeloom_rustybt.bar import market_data

KEY = "obviously-fake-key"
SECRET = "obviously-fake-secret"


# ------------------------------------------------------------------------------------------ its life


async def test_connect_fails_where_nobody_listens(simulate, free_port):
    adapter = BinanceWebSocketAdapter(base_url=f"http://127.0.0.1:{free_port}")

    with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1"), anyio.fail_after(5):
        await adapter.connect()
    assert not adapter.is_connected()


async def test_the_error_of_connect_names_the_wrong_setting(simulate):
    with pytest.raises(ConfigError, match=r"base_urls.*base_url"):
        await BinanceWebSocketAdapter(base_urls="http://127.0.0.1").connect()


async def test_a_program_runs_unchanged_against_the_address_in_the_environment(
    simulate, take, monkeypatch
):
    async with simulate() as sim:
        monkeypatch.setenv("TAPELOOM_BINANCE_BASE_URL", sim.url)
        adapter = BinanceWebSocketAdapter(testnet=True)
        await adapter.connect()
        await adapter.subscribe(["BTC/USDT"])
        bars = await take(await adapter.stream(), count=2)
        await adapter.disconnect()

    assert [bar.symbol for bar in bars] == ["BTC/USDT"] * 2


async def test_an_address_in_the_program_precedes_that_in_the_environment(free_port, monkeypatch):
    pytest.importorskip("tapeloom_binance")
    monkeypatch.setenv("TAPELOOM_BINANCE_BASE_URL", "http://venue.invalid")
    adapter = BinanceWebSocketAdapter(base_url=f"http://127.0.0.1:{free_port}")

    with pytest.raises(ConnectionFailed, match=f"127.0.0.1:{free_port}"):
        await adapter.connect()


async def test_the_error_of_connect_names_the_missing_package():
    class Nowhere(WebSocketAdapter):
        venue = Venue(plugin="nowhere")

    with pytest.raises(PluginNotFound, match="no plugin named 'nowhere'"):
        await Nowhere().connect()


async def test_a_second_connect_does_nothing(simulate, take):
    async with simulate() as sim:
        adapter = BinanceWebSocketAdapter(symbols=["BTC/USDT"], interval="tick", **sim.settings)
        await asyncio.gather(adapter.connect(), adapter.connect())
        queue = await adapter.stream()
        await adapter.connect()
        assert await adapter.stream() is queue
        await take(queue, count=1)
        assert sim.connections == 1
        await adapter.disconnect()
        await adapter.disconnect()


async def test_a_cancelled_connect_leaves_nothing_open(simulate):
    async def never_answer(stream):
        async with stream:
            await anyio.sleep_forever()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, never_answer)
        adapter = BinanceWebSocketAdapter(base_url=f"http://127.0.0.1:{port}")
        begun = anyio.current_time()
        with anyio.move_on_after(0.1) as scope:
            await adapter.connect()
        seconds = anyio.current_time() - begun
        tasks.cancel_scope.cancel()

    assert scope.cancelled_caught
    assert seconds < 5  # and not as long as dialling may take
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "binance adapter"]


async def test_subscriptions_are_kept_over_a_disconnect(simulate, take):
    async with simulate() as sim:
        adapter = BinanceWebSocketAdapter(interval="tick", **sim.settings)
        await adapter.subscribe(["BTC/USDT"])
        for _ in range(2):
            await adapter.connect()
            assert (await take(await adapter.stream(), count=1))[0].symbol == "BTC/USDT"
            await adapter.disconnect()

    assert adapter.active_subscriptions == ("BTC/USDT",)


async def test_bars_read_before_disconnect_come_before_the_end(simulate, until):
    async with simulate() as sim:
        adapter = BinanceWebSocketAdapter(interval="tick", symbols=["BTC/USDT"], **sim.settings)
        await adapter.connect()
        queue = await adapter.stream()
        await until(lambda: queue.qsize() > 50)
        await adapter.disconnect()
        left = queue.qsize()
        bars = [await queue.get() for _ in range(left)]

    assert len({(bar.timestamp, bar.close, bar.volume) for bar in bars}) > 10
    assert queue.empty()
    with pytest.raises(StreamEnded, match="connect"):
        await queue.get()
    with pytest.raises(asyncio.QueueEmpty):
        queue.get_nowait()
    assert [bar async for bar in queue] == []


async def test_a_get_that_times_out_loses_nothing(simulate, true_bars, prices):
    async with (
        simulate() as sim,
        BinanceWebSocketAdapter(symbols=["BTC/USDT"], **sim.settings) as adapter,
    ):
        queue, bars = await adapter.stream(), []
        with anyio.fail_after(20):
            while len(bars) < 4:
                with contextlib.suppress(TimeoutError):
                    bars.append(await asyncio.wait_for(queue.get(), timeout=0.01))

        truth = true_bars(sim, "BTC/USDT")
        assert [bar.ts - bars[0].ts for bar in bars] == [n * 60 * 10**9 for n in range(4)]
        assert [prices(bar) for bar in bars[1:]] == [truth[bar.ts] for bar in bars[1:]]


async def test_an_unlisted_symbol_is_refused_and_does_not_affect_others(simulate, take):
    async with (
        simulate() as sim,
        BinanceWebSocketAdapter(interval="tick", symbols=["BTC/USDT"], **sim.settings) as adapter,
    ):
        with pytest.raises(SymbolError, match="BTC/USDT"):
            await adapter.subscribe(["BTX/USDT"])
        assert await take(await adapter.stream(), count=1)
        assert adapter.active_subscriptions == ("BTC/USDT",)


async def test_connect_refuses_an_unlisted_symbol(simulate):
    async with simulate() as sim:
        with pytest.raises(SymbolError, match="BTC/USDT"):
            await BinanceWebSocketAdapter(symbols=["BTX/USDT"], **sim.settings).connect()


async def test_is_connected_is_false_while_the_venue_is_down(simulate, free_port, until):
    async with simulate(port=free_port) as sim:
        adapter = BinanceWebSocketAdapter(symbols=["BTC/USDT"], **sim.settings)
        await adapter.connect()
        await until(lambda: sim.connections == 1)
        assert adapter.is_connected()
    await until(lambda: not adapter.is_connected())
    async with simulate(port=free_port) as sim:
        await until(adapter.is_connected)
        await adapter.disconnect()


async def test_get_raises_the_error_of_the_feed_and_connect_reopens_it(simulate, take):
    simulator = pytest.importorskip("tapeloom_simulator")
    refusal = simulator.Fault(kind="sub_error", count=1)
    async with simulate(faults=[refusal]) as sim:
        adapter = BinanceWebSocketAdapter(interval="tick", **sim.settings)
        await adapter.connect()
        await adapter.subscribe(["BTC/USDT"])
        with pytest.raises(SubscriptionRefused), anyio.fail_after(10):
            await (await adapter.stream()).get()
        with pytest.raises(SubscriptionRefused):
            await adapter.subscribe(["ETH/USDT"])
        assert not adapter.is_connected()
        await adapter.connect()
        assert await take(await adapter.stream(), count=1)
        await adapter.disconnect()


async def test_the_error_of_stream_before_connect_says_what_to_do():
    adapter = BinanceWebSocketAdapter()

    with pytest.raises(RuntimeError, match=r"connect\(\)"):
        await adapter.stream()
    with pytest.raises(RuntimeError, match=r"connect\(\)"):
        _ = adapter.tapeloom


async def test_debug_mode_logs_changes_of_state_but_no_ticks(simulate, take):
    logged = []

    def note(logger, method, event):
        logged.append(event)
        raise structlog.DropEvent

    structlog.configure(
        processors=[note], wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG)
    )
    try:
        async with (
            simulate() as sim,
            BinanceWebSocketAdapter(
                symbols=["BTC/USDT"], interval="tick", **sim.settings
            ) as adapter,
        ):
            await take(await adapter.stream(), count=200)
    finally:
        structlog.reset_defaults()

    assert "feed_connected" in [event["event"] for event in logged]
    assert len(logged) < 10


# -------------------------------------------------------------------------------------------- the keys


async def test_keys_are_not_shown(simulate, take, capsys):
    with structlog.testing.capture_logs() as logs:
        async with (
            simulate() as sim,
            BinanceWebSocketAdapter(
                api_key=KEY, api_secret=SECRET, symbols=["BTC/USDT"], interval="tick",
                **sim.settings,
            ) as adapter,
        ):  # fmt: skip
            await take(await adapter.stream(), count=1)
            shown = [repr(adapter), repr(adapter.stack()), repr(adapter.tapeloom.plans)]
            shown += [repr(vars(adapter)), repr(logs), *capsys.readouterr()]

    assert adapter.stack().venues["binance"]["api_key"].reveal() == KEY
    assert [text for text in shown if KEY in text or SECRET in text] == []


# ------------------------------------------------------------------------------------- the broker's side


class Consumer:
    """Reads a broker as RustyBT's DataFeed does: by these calls, by these keys."""

    def __init__(self, broker):
        self.broker = broker

    async def next(self):
        data = await self.broker.get_next_market_data()
        if data is None:
            return None
        numbers = ("open", "high", "low", "close", "volume")
        return {
            "asset_symbol": data["asset"],
            "bar_timestamp": data["timestamp"],
            **{name: Decimal(str(data[name])) for name in numbers},
        }


async def test_a_data_feed_gets_every_bar_with_the_names_of_its_assets(simulate, true_bars, until):
    async with simulate(symbols=["BTC/USDT:USDT"]) as sim:
        adapter = BinanceWebSocketAdapter(market="usdm", **sim.settings)
        asset = SimpleNamespace(symbol="BTC-PERP")
        await adapter.connect()
        await adapter.subscribe_market_data([asset])
        feed = Consumer(adapter)
        with anyio.fail_after(20):
            first, second = [await feed.next() for _ in range(2)]
        await adapter.unsubscribe_market_data([asset])
        assert adapter.active_subscriptions == ()
        await adapter.disconnect()
        with anyio.fail_after(5):
            while await feed.next():
                pass

        truth = true_bars(sim, "BTC/USDT:USDT")
        start = second["bar_timestamp"]
        assert {first["asset_symbol"], second["asset_symbol"]} == {"BTC-PERP"}
        assert start - first["bar_timestamp"] == timedelta(minutes=1)
        numbers = tuple(second[name] for name in ("open", "high", "low", "close", "volume"))
        assert numbers == truth[int(start.timestamp()) * 10**9]


def test_market_data_has_a_pandas_timestamp_if_pandas_is_loaded(monkeypatch):
    price = Decimal("1.5")
    bar = OHLCVBar(
        "BTC/USDT", datetime(2026, 1, 1, tzinfo=UTC), price, price, price, price, Decimal(2)
    )
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(Timestamp=lambda time: ("ts", time)))

    assert market_data(bar) == {
        "asset": "BTC/USDT",
        "open": price,
        "high": price,
        "low": price,
        "close": price,
        "volume": Decimal(2),
        "timestamp": ("ts", bar.timestamp),
    }
