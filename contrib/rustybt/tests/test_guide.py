"""Every program of the guide in its order: the same calls, and the promised results."""

import asyncio
import math
import os
import signal
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import anyio
import pytest
import tapeloom
from tapeloom import Gap
from tapeloom_rustybt import (
    BarAggregator,
    HeartbeatMonitor,
    RobustWebSocketAdapter,
    StreamManager,
    batch_processor,
    batch_subscribe,
    graceful_stream,
    validate_bar,
)
from tapeloom_rustybt.live.streaming import OHLCVBar
from tapeloom_rustybt.live.streaming.binance_stream import BinanceWebSocketAdapter

START = datetime(2026, 1, 1, tzinfo=UTC)


# ----------------------------------------------------------------------------------- basic usage


async def test_basic_usage_gives_closed_bars_that_equal_the_trades(
    simulate, take, true_bars, prices
):
    async with simulate() as sim:
        adapter = BinanceWebSocketAdapter(
            api_key=os.getenv("NO_SUCH_KEY"),
            api_secret=os.getenv("NO_SUCH_SECRET"),
            testnet=True,
            base_url=sim.url,
        )
        await adapter.connect()
        await adapter.subscribe(["BTC/USDT", "ETH/USDT"])
        queue = await adapter.stream()
        bars = await take(queue, count=8)
        await adapter.disconnect()

        whole = [bar for bar in bars if bar.complete]
        assert {bar.symbol for bar in whole} == {"BTC/USDT", "ETH/USDT"}
        assert len(whole) >= 6
        for bar in whole:
            assert prices(bar) == true_bars(sim, bar.symbol)[bar.ts]
            assert f"{bar.symbol}: ${bar.close:.2f} @ {bar.timestamp}".endswith(":00+00:00")


async def test_a_bar_has_the_guides_fields_in_decimal_and_utc(simulate, take):
    async with (
        simulate() as sim,
        BinanceWebSocketAdapter(symbols=["BTC/USDT"], **sim.settings) as adapter,
    ):
        first, second = await take(await adapter.stream(), count=2)

    fields = ["symbol", "timestamp", "open", "high", "low", "close", "volume"]
    assert list(OHLCVBar.__dataclass_fields__)[:7] == fields
    assert {type(getattr(second, name)) for name in fields[2:]} == {Decimal}
    assert second.timestamp.tzinfo is UTC
    assert second.timestamp - first.timestamp == timedelta(minutes=1)
    assert second.timestamp.second == 0
    assert (first.complete, second.complete) == (False, True)


async def test_klines_are_the_venues_own_bars_once_each_when_they_close(
    simulate, take, true_bars, prices
):
    async with (
        simulate() as sim,
        BinanceWebSocketAdapter(
            channels=["klines:1m"], symbols=["BTC/USDT"], **sim.settings
        ) as adapter,
    ):
        bars = await take(await adapter.stream(), count=3)

        assert [bar.ts - bars[0].ts for bar in bars] == [0, 60 * 10**9, 120 * 10**9]
        assert [prices(bar) for bar in bars] == [true_bars(sim, "BTC/USDT")[b.ts] for b in bars]


# --------------------------------------------------------------------------------- data aggregation


async def test_ticks_become_minute_bars_that_equal_the_trades(simulate, true_bars):
    async with (
        simulate() as sim,
        BinanceWebSocketAdapter(
            interval="tick", symbols=["BTC/USDT", "ETH/USDT"], **sim.settings
        ) as adapter,
    ):
        queue = await adapter.stream()
        aggregator = BarAggregator(window_seconds=60)
        done = []
        with anyio.fail_after(20):
            while len(done) < 8:
                tick = await queue.get()
                bar = aggregator.add_tick(tick)
                if bar:
                    done.append(bar)
                    assert f"O={bar['open']:.2f} C={bar['close']:.2f}"

        whole = [bar for bar in done if bar["complete"]]
        assert len(whole) >= 6
        for bar in whole:
            start = int(bar["start_time"].timestamp()) * 10**9
            got = tuple(bar[name] for name in ("open", "high", "low", "close", "volume"))
            assert got == true_bars(sim, bar["symbol"])[start]


# --------------------------------------------------------------------------------- multiple streams


async def test_two_adapters_stream_at_the_same_time(simulate, take, true_bars, prices):
    async with simulate() as one, simulate(symbols=["BTC/USDT:USDT"], seed=8) as other:
        spot = BinanceWebSocketAdapter(**one.settings)
        swap = BinanceWebSocketAdapter(market="usdm", **other.settings)
        await asyncio.gather(spot.connect(), swap.connect())
        await spot.subscribe(["BTC/USDT"])
        await swap.subscribe(["BTC-PERP"])
        spot_queue = await spot.stream()
        swap_queue = await swap.stream()
        spot_bars, swap_bars = await asyncio.gather(take(spot_queue, 3), take(swap_queue, 3))
        await asyncio.gather(spot.disconnect(), swap.disconnect())

        for sim, bars, symbol in (
            (one, spot_bars, "BTC/USDT"),
            (other, swap_bars, "BTC/USDT:USDT"),
        ):
            truth = true_bars(sim, symbol)
            assert [bar.symbol for bar in bars] == [symbol] * 3
            assert [prices(bar) for bar in bars[1:]] == [truth[bar.ts] for bar in bars[1:]]


async def test_a_stream_manager_returns_the_next_bar_of_a_stream(simulate):
    async with simulate() as one, simulate(symbols=["BTC/USDT:USDT"], seed=8) as other:
        manager = StreamManager()
        await manager.add_stream("spot", BinanceWebSocketAdapter(**one.settings), ["BTC/USDT"])
        await manager.add_stream(
            "swap", BinanceWebSocketAdapter(market="usdm", **other.settings), ["BTC-PERP"]
        )
        with anyio.fail_after(20):
            names = [(await manager.get_next(name)).symbol for name in ("swap", "spot", "swap")]
        await manager.close_all()

        assert names == ["BTC/USDT:USDT", "BTC/USDT", "BTC/USDT:USDT"]
        assert manager.adapters == manager.queues == {}
        assert one.connections == other.connections == 0


# ----------------------------------------------------------------------------------- error handling


async def test_connecting_is_retried_until_the_venue_is_reachable(simulate, free_port, take, until):
    adapter = BinanceWebSocketAdapter(base_url=f"http://127.0.0.1:{free_port}")
    robust = RobustWebSocketAdapter(adapter, max_retries=50, first=0.02, cap=0.1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(robust.connect_with_retry)
        await anyio.sleep(0.15)
        assert not adapter.is_connected()
        async with simulate(port=free_port):
            with anyio.fail_after(10):
                await until(adapter.is_connected)
            await adapter.subscribe(["BTC/USDT"])
            assert await take(await adapter.stream(), count=1)
            await adapter.disconnect()


async def test_a_reconnection_keeps_subscriptions_and_reports_the_gap(simulate):
    simulator = pytest.importorskip("tapeloom_simulator")
    fault = simulator.Fault(kind="disconnect", after=200, count=1, how="abrupt")
    symbols = ["BTC/USDT", "ETH/USDT"]
    async with simulate(faults=[fault]) as sim:
        adapter = BinanceWebSocketAdapter(interval="tick", symbols=symbols, **sim.settings)
        robust = RobustWebSocketAdapter(adapter, max_retries=5)
        queue = await robust.stream_with_reconnect()
        gaps = adapter.tapeloom.of(Gap)
        with anyio.fail_after(20):
            holes = set()
            while holes != set(symbols):  # each is told, and told again when it has been filled
                holes.add((await anext(gaps)).symbol)
            came = set()
            while came != set(symbols):
                bar = await queue.get()
                if len(sim.truth.connections) > 1 and bar.ts > sim.truth.connections[-1].ts:
                    came.add(bar.symbol)
        counters = adapter.tapeloom.counters
        await adapter.disconnect()

    assert holes == set(symbols)
    assert counters["reconnects"] == 1
    assert adapter.active_subscriptions == ("BTC/USDT", "ETH/USDT")


async def test_a_failed_feed_is_reopened_with_its_subscriptions(simulate, free_port):
    """The queue of stream_with_reconnect outlives a disconnect that was not its user's."""
    async with simulate(port=free_port) as sim:
        adapter = Faltering(interval="tick", symbols=["BTC/USDT"], **sim.settings)
        queue = await RobustWebSocketAdapter(adapter, first=0.02).stream_with_reconnect()
        with anyio.fail_after(20):
            before = [await queue.get() for _ in range(20)]
            adapter.falter()
            after = [await queue.get() for _ in range(20)]
        await adapter.disconnect()

    assert {bar.symbol for bar in before + after} == {"BTC/USDT"}
    assert adapter.streams == 2


class Faltering(BinanceWebSocketAdapter):
    """An adapter whose queue can be made to fail, as if the feed had ended by an error."""

    streams = 0

    async def stream(self):
        self.streams += 1
        return await super().stream()

    def falter(self):
        from tapeloom.errors import ConnectionLost

        self._queue._consumer.queue.close(ConnectionLost("binance", "on purpose"))


def bar(close, minute, *, high=None, low=None, volume="1", symbol="BTC/USDT"):
    close = Decimal(close)
    return OHLCVBar(
        symbol=symbol,
        timestamp=START + timedelta(minutes=minute),
        open=close,
        high=Decimal(high or close),
        low=Decimal(low or close),
        close=close,
        volume=Decimal(volume),
    )


def test_validation_passes_valid_bars_and_none_of_the_guides_anomalies():
    pytest.importorskip("tapeloom_quality", reason="validate_bar asks tapeloom-quality")
    good = bar("100", 0, high="101", low="99", symbol="V/USDT")
    wrong = [
        bar("100", 1, high="99", low="101", symbol="V/USDT"),  # high below low
        bar("102", 2, high="101", low="99", symbol="V/USDT"),  # close outside
        bar("0", 3, symbol="V/USDT"),
        bar("100", 4, volume="-1", symbol="V/USDT"),
        bar("111", 5, symbol="V/USDT"),  # the circuit breaker's 10 %
    ]
    queue = [good, *wrong, bar("101", 6, symbol="V/USDT")]

    assert [validate_bar(one) for one in queue] == [True, *[False] * 5, True]


# ------------------------------------------------------------------------------------- performance


async def test_bars_are_processed_in_batches_by_size_and_by_time():
    queue: asyncio.Queue[OHLCVBar] = asyncio.Queue()
    batches = []
    for minute in range(25):
        queue.put_nowait(bar("100", minute))
    with anyio.move_on_after(0.5):
        await batch_processor(queue, batch_size=10, timeout=0.05, process_batch=batches.append)

    assert [len(batch) for batch in batches] == [10, 10, 5]
    assert [one.timestamp.minute for batch in batches for one in batch] == list(range(25))


async def test_a_small_queue_drops_the_oldest_and_counts_them(simulate, until):
    small = tapeloom.QueueSpec(size=100, policy="drop_oldest")
    async with (
        simulate(speed=math.inf, trades=2000, rate=1000.0) as sim,
        BinanceWebSocketAdapter(
            interval="tick", symbols=["BTC/USDT", "ETH/USDT"], queue=small, **sim.settings
        ) as adapter,
    ):
        queue = await adapter.stream()
        with anyio.fail_after(20):
            await until(lambda: queue.dropped + queue.qsize() == 2000)

    assert queue.maxsize == 100
    assert queue.dropped >= 2000 - 256  # a single read may bring more than the queue holds


async def test_symbols_are_added_and_removed_while_streaming(simulate, take):
    async with (
        simulate() as sim,
        BinanceWebSocketAdapter(interval="tick", **sim.settings) as adapter,
    ):
        queue = await adapter.stream()
        await adapter.subscribe(["BTC/USDT"])
        only = {bar.symbol for bar in await take(queue, count=50)}
        await adapter.subscribe(["ETH/USDT"])
        await take(queue, until=lambda bars: bars[-1].symbol == "ETH/USDT")
        await adapter.unsubscribe(["BTC/USDT"])
        await take(queue, until=lambda bars: {b.symbol for b in bars[-20:]} == {"ETH/USDT"})

        assert only == {"BTC/USDT"}
        assert adapter.active_subscriptions == ("ETH/USDT",)


# ----------------------------------------------------------------------------------- best practices


async def test_the_heartbeat_monitor_detects_a_silent_stream(simulate):
    simulator = pytest.importorskip("tapeloom_simulator")
    silence = simulator.Fault(kind="silent_stall", after=100, how="all", seconds=10**6)
    async with (
        simulate(faults=[silence]) as sim,
        BinanceWebSocketAdapter(interval="tick", symbols=["BTC/USDT"], **sim.settings) as adapter,
    ):
        queue = await adapter.stream()
        monitor = HeartbeatMonitor(timeout_seconds=0.5)
        assert not monitor.is_alive()
        alive = []
        with anyio.fail_after(20), pytest.raises(TimeoutError):
            while True:
                await monitor.get(queue)
                alive.append(monitor.is_alive())

    assert len(alive) >= 50
    assert all(alive)
    assert not monitor.is_alive()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
async def test_a_signal_ends_the_guides_loop_and_disconnects(simulate, number):
    shutdown_event = asyncio.Event()

    def signal_handler(sig, frame):
        shutdown_event.set()

    before = signal.signal(number, signal_handler)
    try:
        async with simulate() as sim:
            adapter = BinanceWebSocketAdapter(symbols=["BTC/USDT"], **sim.settings)
            await adapter.connect()
            queue = await adapter.stream()
            bars = []
            with anyio.fail_after(20):
                try:
                    while not shutdown_event.is_set():
                        try:
                            bars.append(await asyncio.wait_for(queue.get(), timeout=1.0))
                        except TimeoutError:
                            continue  # a quiet second is no reason to end
                        os.kill(os.getpid(), number)
                finally:
                    await adapter.disconnect()

            assert sim.connections == 0
    finally:
        signal.signal(number, before)

    assert bars
    assert not adapter.is_connected()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
async def test_bars_read_before_a_signal_are_still_processed(simulate, number, until):
    async with simulate() as sim:
        adapter = BinanceWebSocketAdapter(interval="tick", **sim.settings)
        done, waiting = [], []

        async def process_bar(bar):
            done.append(bar)
            if len(done) == 30:
                await anyio.sleep(0.3)  # some more is read meanwhile
                os.kill(os.getpid(), number)
                await until(adapter._stopped.is_set)
                waiting.append((await adapter.stream()).qsize())

        with anyio.fail_after(20):
            await graceful_stream(adapter, process_bar, ["BTC/USDT", "ETH/USDT"])

        assert sim.connections == 0
    assert waiting[0] > 10
    assert len(done) >= 30 + waiting[0]


async def test_a_second_signal_ends_at_once(simulate):
    async with simulate() as sim:
        adapter = BinanceWebSocketAdapter(interval="tick", symbols=["BTC/USDT"], **sim.settings)

        async def never_done(bar):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
                await anyio.sleep(0.05)
            await anyio.sleep_forever()

        with anyio.fail_after(10):
            await graceful_stream(adapter, never_done)

    assert not adapter.is_connected()


async def test_subscribing_in_batches_keeps_the_venues_rate_limit(simulate, until):
    """The simulated Binance closes a connection that sends more than five messages a second."""
    symbols = [f"C{number}/USDT" for number in range(30)]
    async with (
        simulate(symbols=symbols, rate=500.0, speed=1.0) as sim,
        BinanceWebSocketAdapter(interval="tick", **sim.settings) as adapter,
    ):
        with anyio.fail_after(20):
            await adapter.subscribe(symbols[:1])
            await (await adapter.stream()).get()  # now there is a connection to overburden
            begun = anyio.current_time()
            await batch_subscribe(adapter, symbols, batch_size=5)
            await until(lambda: {one.symbol for one in sim.truth.sent} == set(symbols))
            seconds = anyio.current_time() - begun
        counters = adapter.tapeloom.counters

    assert seconds > 0.8  # six messages
    assert adapter.active_subscriptions == tuple(symbols)
    assert counters["connections"] == 1
    assert counters["reconnects"] == 0
