"""Bars without a venue: aggregation, validation, batches, heartbeat."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import anyio
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom_rustybt import (
    BarAggregator,
    BarValidator,
    HeartbeatMonitor,
    OHLCVBar,
    StreamEnded,
    batch_processor,
    process_batch,
)

START = datetime(2026, 1, 1, tzinfo=UTC)


def tick(seconds, price, volume="1", symbol="BTC/USDT"):
    price = Decimal(price)
    at = START + timedelta(seconds=seconds)
    return OHLCVBar(symbol, at, price, price, price, price, Decimal(volume))


def shown(bar):
    """Return a bar of the aggregator in one line of text."""
    seconds = round((bar["start_time"] - START).total_seconds())
    numbers = " ".join(str(bar[name]) for name in ("open", "high", "low", "close", "volume"))
    return f"{bar['symbol'][:3]} {seconds} {numbers}"


# -------------------------------------------------------------------------------------- aggregation


@pytest.fixture
def aggregator():
    pytest.importorskip("tapeloom_bars", reason="BarAggregator asks tapeloom-bars")
    return BarAggregator(window_seconds=60)


def test_a_tick_on_the_boundary_belongs_to_the_new_bar(aggregator):
    ticks = [tick(7, 10), tick(59.9, 12), tick(60, 9), tick(119, 8), tick(120, 11)]

    done = [bar for tick_ in ticks if (bar := aggregator.add_tick(tick_))]
    assert [shown(bar) for bar in done] == ["BTC 0 10 12 10 12 2", "BTC 60 9 9 8 8 2"]
    assert [bar["complete"] for bar in done] == [False, True]


def test_each_symbol_has_its_own_bars(aggregator):
    ticks = [tick(1, 10), tick(2, 500, symbol="ETH/USDT"), tick(61, 11)]
    ticks.append(tick(62, 501, symbol="ETH/USDT"))

    done = [bar for tick_ in ticks if (bar := aggregator.add_tick(tick_))]
    assert [shown(bar) for bar in done] == ["BTC 0 10 10 10 10 1", "ETH 0 500 500 500 500 1"]


def test_a_late_tick_revises_only_its_own_bar(aggregator):
    for tick_ in (tick(10, 10), tick(70, 20)):
        aggregator.add_tick(tick_)
    revised = aggregator.add_tick(tick(30, 5))
    closed = aggregator.add_tick(tick(130, 21))

    assert (shown(revised), revised["revision"]) == ("BTC 0 10 10 5 5 2", 1)
    assert (shown(closed), closed["revision"]) == ("BTC 60 20 20 20 20 1", 0)


def test_the_last_bar_is_not_lost(aggregator):
    aggregator.add_tick(tick(10, 10))

    (last,) = aggregator.flush()
    assert shown(last) == "BTC 0 10 10 10 10 1"
    assert not last["complete"]


def test_shorter_bars_make_longer_ones(aggregator):
    for second, (low, high) in enumerate([(9, 12), (8, 11), (10, 14)]):
        at = START + timedelta(seconds=second)
        bar = OHLCVBar("BTC/USDT", at, *map(Decimal, (10, high, low, 11, 3)))
        aggregator.add_tick(bar)

    assert shown(aggregator.flush()[0]) == "BTC 0 10 14 8 11 9"


prices = st.decimals(min_value=1, max_value=1000, places=2)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 300), prices, st.integers(1, 9)), min_size=1))
def test_no_volume_is_lost_in_any_order_of_ticks(ticks):
    pytest.importorskip("tapeloom_bars", reason="BarAggregator asks tapeloom-bars")
    aggregator = BarAggregator(window_seconds=60)
    bars = {}
    for seconds, price, volume in ticks:
        if bar := aggregator.add_tick(tick(seconds, price, volume)):
            bars[bar["start_time"]] = bar  # a revision takes the place of what it revises
    bars |= {bar["start_time"]: bar for bar in aggregator.flush()}

    assert sum(bar["volume"] for bar in bars.values()) == sum(volume for *_, volume in ticks)
    assert max(bar["high"] for bar in bars.values()) == max(price for _, price, _ in ticks)


# --------------------------------------------------------------------------------------- validation


@pytest.fixture
def valid():
    pytest.importorskip("tapeloom_quality", reason="BarValidator asks tapeloom-quality")
    return BarValidator()


def test_the_circuit_breaker_closes_after_a_real_move(valid):
    """The guide's own rejects every bar for ever after one move of more than 10 %."""
    moved = [100, 100, 120, 121, 120, 119, 120, 121]

    assert [valid(tick(60 * n, price)) for n, price in enumerate(moved)] == [
        True, True, False, False, True, True, True, True,
    ]  # fmt: skip


def test_a_wrong_price_does_not_invalidate_later_bars(valid):
    spiked = [100, 150, 101, 102]

    assert [valid(tick(60 * n, price)) for n, price in enumerate(spiked)] == [
        True, False, True, True,
    ]  # fmt: skip


def test_symbols_are_validated_separately(valid):
    ticks = [tick(0, 100), tick(0, 3000, symbol="ETH/USDT"), tick(60, 101)]

    assert all(map(valid, ticks))


@pytest.mark.parametrize("price", ["NaN", "Infinity", "-1", "0"])
def test_an_invalid_price_makes_a_bar_invalid_without_an_error(valid, price):
    assert not valid(tick(0, price))


def test_a_rejected_bar_is_logged_with_rule_and_evidence(valid):
    with structlog.testing.capture_logs() as logs:
        valid(tick(0, 100))
        valid(tick(60, 120))

    (entry,) = logs
    assert (entry["event"], entry["rule"], entry["symbol"]) == ("bar_invalid", "jump", "BTC/USDT")
    assert "120" in entry["evidence"]


# --------------------------------------------------------------------------------- batches, heartbeat


class Ending(asyncio.Queue):
    """A queue that comes to an end by *error*."""

    def __init__(self, bars, error):
        super().__init__()
        for bar in bars:
            self.put_nowait(bar)
        self.error = error

    async def get(self):
        if self.empty():
            raise self.error
        return await super().get()


async def test_the_last_batch_is_processed_when_the_stream_ends():
    batches = []

    async def process(bars):
        batches.append([bar.close for bar in bars])

    queue = Ending([tick(n, n + 1) for n in range(5)], StreamEnded("over"))
    await batch_processor(queue, batch_size=3, process_batch=process)

    assert batches == [[1, 2, 3], [4, 5]]


async def test_the_error_of_the_stream_is_raised_after_the_last_batch():
    batches = []
    queue = Ending([tick(0, 1)], OSError("gone"))

    with pytest.raises(OSError, match="gone"):
        await batch_processor(queue, process_batch=batches.append)
    assert [len(batch) for batch in batches] == [1]


def test_the_vwap_of_a_batch_is_computed_per_symbol():
    pytest.importorskip("pandas", reason="process_batch makes a DataFrame of pandas")
    bars = [tick(0, 10, 1), tick(0, 500, 2, symbol="ETH/USDT"), tick(60, 20, 3)]

    frame = process_batch(bars)
    assert list(frame["symbol"]) == ["BTC/USDT", "ETH/USDT", "BTC/USDT"]
    assert list(frame["vwap"]) == [17.5, 500.0, 17.5]
    assert list(frame["close"]) == [10.0, 500.0, 20.0]


async def test_a_heartbeat_monitor_is_alive_for_its_timeout():
    monitor = HeartbeatMonitor(timeout_seconds=0.05)
    before = monitor.is_alive()
    monitor.on_message()
    after = monitor.is_alive()
    await anyio.sleep(0.06)

    assert (before, after, monitor.is_alive()) == (False, True, False)


def test_a_timestamp_without_a_zone_is_taken_as_utc():
    bar = tick(random.Random(1).randrange(10**6), 1)
    naive = OHLCVBar(bar.symbol, bar.timestamp.replace(tzinfo=None), *[Decimal(1)] * 5)

    assert naive.ts == bar.ts
