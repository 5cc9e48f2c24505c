"""Candles of the time before the stream, from Parquet files that the sink has written."""

from __future__ import annotations

import time
from decimal import Decimal
from pathlib import Path

import anyio
import pytest
from tapeloom import Bar, Event, Trade
from tapeloom.harness import write_all
from tapeloom_screens import Candle, Market
from tapeloom_web.shown import Shown
from tapeloom_web.stored import StoredCandles, read

parquet = pytest.importorskip("tapeloom_parquet")

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
START = 1_700_000_040 * SECOND  # a whole minute
LATER = START + 100 * MINUTE


def trade(n: int, price: str, symbol: str = "BTC/USD") -> Trade:
    ts = START + n * 10 * SECOND
    return Trade("acme", symbol, ts, ts, Decimal(price), Decimal("0.1"), "buy", n)


def stored(folder: Path, events: list[Event]) -> Path:
    sink = parquet.ParquetSink(parquet.Settings(path=str(folder / "data")))
    anyio.run(lambda: write_all(sink, events, epoch=START, folder=folder))
    return folder / "data"


def test_trades_become_exact_candles_in_order_of_their_times(tmp_path: Path) -> None:
    trades = [trade(n, f"100.{n:018}") for n in (0, 1, 2, 5, 3, 8)]
    folder = stored(tmp_path, [*trades, trade(1, "7", "ETH/USD")])
    found = read(folder, "acme", "BTC/USD", MINUTE, LATER)

    assert [(c.start, c.open, c.close, c.volume, c.trades) for c in found] == [
        (START, Decimal("100." + "0" * 18), Decimal("100." + "0" * 17 + "5"), Decimal("0.5"), 5),
        (START + MINUTE, Decimal("100." + "0" * 17 + "8"), Decimal("100." + "0" * 17 + "8"), Decimal("0.1"), 1),
    ]  # fmt: skip


def test_bars_of_the_same_interval_come_before_trades(tmp_path: Path) -> None:
    one = Decimal(1)
    bars = [
        Bar(
            "acme",
            "BTC/USD",
            START + n * MINUTE,
            START,
            "1m",
            one,
            one,
            one,
            Decimal(n),
            one,
            None,
            None,
            None,
            None,
        )
        for n in range(3)
    ]
    folder = stored(tmp_path, [*bars, trade(0, "9")])

    assert [c.close for c in read(folder, "acme", "BTC/USD", MINUTE, LATER)] == [0, 1, 2]
    assert [c.close for c in read(folder, "acme", "BTC/USD", 5 * MINUTE, LATER)] == [9]


def test_only_candles_before_the_stream_are_taken(tmp_path: Path) -> None:
    folder = stored(tmp_path, [trade(n, "1") for n in range(60)])
    found = read(folder, "acme", "BTC/USD", MINUTE, START + 3 * MINUTE)

    assert [c.start for c in found] == [START, START + MINUTE, START + 2 * MINUTE]


def test_the_past_is_read_beside_and_put_before_what_the_stream_has(tmp_path: Path) -> None:
    folder = stored(tmp_path, [trade(n, "1") for n in range(12)])
    market = Market()
    market.add([trade(n, "2") for n in range(12, 20)])
    shown = Shown(market, lambda: None, StoredCandles(folder))  # type: ignore[arg-type,return-value]
    deadline = time.monotonic() + 20
    found: list[Candle] = []
    while len(found) < 4 and time.monotonic() < deadline:
        found = shown.candles("acme", "BTC/USD", MINUTE, 10)
        time.sleep(0.01)

    assert [candle.close for candle in found] == [1, 1, 2, 2]


def test_a_store_without_the_symbol_or_that_is_none_leaves_the_page_without_a_past(
    tmp_path: Path,
) -> None:
    stored_candles = StoredCandles(tmp_path)
    stored_candles("acme", "BTC/USD", MINUTE, LATER)
    deadline = time.monotonic() + 20
    while not all(future.done() for future in stored_candles._found.values()):
        assert time.monotonic() < deadline
        time.sleep(0.01)

    assert stored_candles("acme", "BTC/USD", MINUTE, LATER) == []
