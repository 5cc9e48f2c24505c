"""Bars of real captures against figures that were worked out once, with plain Decimal arithmetic."""

from __future__ import annotations

import csv
import gzip
import json
import os
from decimal import Decimal
from functools import cache
from pathlib import Path

import pytest
from tapeloom.events import Bar, Reject, Trade
from tapeloom_bars import Bars, Settings

MS = 1_000_000
TICK = 100 * MS
CAPTURES = Path(
    os.environ.get("TAPELOOM_CAPTURES") or Path(__file__).parents[4] / "shared" / "data"
)
COLUMNS = ["open", "high", "low", "close", "volume", "count", "quote_volume", "taker_buy_volume"]

pytestmark = pytest.mark.skipif(
    not (CAPTURES / "oracles").is_dir(),
    reason=f"no captures in {CAPTURES}; set TAPELOOM_CAPTURES to the folder that has them",
)

VENUES = {
    "binance_spot/btcusdt_20240808": "BTCUSDT",
    "binance_spot/cf_20211012": "LRCBTC NKNUSDT",
    "binance_usdm/btcusdt_20240718": "BTCUSDT",
    "binance_usdm/cf_20210722": "AKROUSDT CTKUSDT KEEPUSDT SUSHIUSDT",
    "binance_coinm/ethusd_perp_20240808": "ETHUSD_PERP",
    "bybit/v5_spot_testnet_20260913": "BTCUSDT",
    "hyperliquid/btc_20250126_a": "BTC",
}
PAIRS = [(capture, symbol) for capture, symbols in VENUES.items() for symbol in symbols.split()]


def frames(capture):
    path = CAPTURES / f"{capture}.ws.jsonl"
    packed = path.with_suffix(".jsonl.gz")
    with gzip.open(packed, "rt") if packed.exists() else path.open() as lines:
        for line in lines:
            record = json.loads(line)
            recv = int(Decimal(str(record["ts"])) * 1_000_000_000) if record["ts"] else 0
            yield recv, json.loads(record["frame"])


@cache
def trades(capture):
    """The trades of a capture, in order of arrival."""
    return list(_trades(capture))


def _trades(capture):
    for recv, frame in frames(capture):
        if capture.startswith("bybit"):
            if str(frame.get("topic")).startswith("publicTrade"):
                for one in frame["data"]:
                    yield trade(
                        recv, one["s"], one["T"], one["p"], one["v"], one["S"].lower(), one["i"]
                    )
        elif capture.startswith("hyperliquid"):
            if frame["channel"] == "trades":
                for one in frame["data"]:
                    side = "buy" if one["side"] == "B" else "sell"
                    number = str(one["tid"])
                    yield trade(recv, one["coin"], one["time"], one["px"], one["sz"], side, number)
        else:
            one = frame["data"]
            if one.get("e") in ("trade", "aggTrade"):
                number = one["t"] if one["e"] == "trade" else one["a"]
                side = "sell" if one["m"] else "buy"
                yield trade(recv, one["s"], one["T"], one["p"], one["q"], side, number)


def trade(recv, symbol, ms, price, size, side, number):
    return Trade("v", symbol, ms * MS, recv, Decimal(price), Decimal(size), side, number)


def bars(capture, every, *, batch=1, **settings):
    """Return all events of the capture with its bars, with a tick wherever a tenth of a second begins."""
    stage = Bars(Settings(every=every, **settings))
    out, waiting, tick = [], [], 0
    for one in trades(capture):
        beat = one.recv - one.recv % TICK
        if beat > tick:
            tick = beat
            out += stage(waiting)
            waiting = []
            if stage.due is not None and stage.due <= tick:
                out += stage.tick(tick)
        waiting.append(one)
        if len(waiting) >= batch:
            out += stage(waiting)
            waiting = []
    return out + stage(waiting) + stage.flush()


def final(events):
    return {(e.symbol, e.interval, e.ts // MS): e for e in events if type(e) is Bar}


def rows(path):
    with path.open() as lines:
        for row in csv.DictReader(lines):
            yield int(row.get("open_time_ms") or row["open_time"]), row


def values(bar):
    return [
        bar.open,
        bar.high,
        bar.low,
        bar.close,
        bar.volume,
        bar.trades,
        bar.quote_volume,
        bar.buy_volume,
    ]


@pytest.mark.parametrize("every", ["1s", "1m"])
@pytest.mark.parametrize(("capture", "symbol"), PAIRS)
def test_bars_of_a_capture_equal_the_oracle(capture, symbol, every):
    path = CAPTURES / "oracles" / "bars" / f"{capture}.{symbol}.{every}.csv"
    if not path.exists():
        pytest.skip(f"the oracle has no {every} bars of {symbol}: too few trades")
    out = bars(capture, ("1s", "1m"), keep=1000)

    found = {
        ms: values(bar) for (name, e, ms), bar in final(out).items() if (name, e) == (symbol, every)
    }
    assert found == {ms: [Decimal(row[name]) for name in COLUMNS] for ms, row in rows(path)}
    assert not [event for event in out if type(event) is Reject]


def test_whole_minutes_equal_the_klines_of_the_exchange_in_every_column():
    found = final(bars("binance_usdm/btcusdt_20240718", ("1m",)))

    whole = {ms: bar for (_, _, ms), bar in found.items() if bar.complete}
    klines = dict(rows(CAPTURES / "binance_usdm" / "btcusdt_20240718.exchange_klines_1m.csv"))
    assert len(whole) == 7
    for ms, bar in whole.items():
        assert values(bar) == [Decimal(klines[ms][name]) for name in COLUMNS]
        assert bar.buy_quote_volume == Decimal(klines[ms]["taker_buy_quote_volume"])


@pytest.mark.parametrize(
    "capture", ["binance_spot/btcusdt_20240808", "binance_usdm/btcusdt_20240718"]
)
def test_a_recorder_clock_that_is_wrong_by_more_than_a_second_closes_no_bar_early(capture):
    out = bars(capture, ("1s", "1m"))

    assert len([event for event in out if type(event) is Bar]) > 300
    assert [event for event in out if type(event) is Bar and event.revision] == []
    assert [event for event in out if type(event) is Reject] == []


@pytest.mark.parametrize("batch", [7, 64, 4096])
def test_bars_of_a_capture_do_not_depend_on_the_batch_size(batch):
    capture, every = "binance_spot/btcusdt_20240808", ("1s", "90s")

    assert bars(capture, every, batch=batch) == bars(capture, every)
