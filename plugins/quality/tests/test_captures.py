"""Real frames: nothing good is rejected, and no hole is seen where there is none."""

import gzip
import json
import os
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
from tapeloom.events import Bar, Book, Quote, Trade
from tapeloom.plugin import UnfilledGaps
from tapeloom_quality import Settings
from tapeloom_quality._stage import quality

ROOT = Path(__file__).parents[3]
CAPTURES = Path(os.environ.get("TAPELOOM_CAPTURES", ROOT.parent / "shared" / "data"))
MS = 1_000_000
BINANCE = [
    "binance_spot/btcusdt_20240808.ws.jsonl.gz",
    "binance_spot/cf_20211012.ws.jsonl",
    "binance_usdm/btcusdt_20240718.ws.jsonl.gz",
    "binance_usdm/cf_20210722.ws.jsonl",
    "binance_coinm/ethusd_perp_20240808.ws.jsonl.gz",
]


def frames(name):
    path = CAPTURES / name
    if not path.exists():
        pytest.skip(f"no capture {path}: set TAPELOOM_CAPTURES to the folder of captures")
    packed = path.read_bytes()
    text = gzip.decompress(packed) if path.suffix == ".gz" else packed
    for line in text.splitlines():
        row = json.loads(line)
        yield int((row["ts"] or 0) * 10**9), json.loads(row["frame"])


def kline(symbol, recv, k):
    numbers = [Decimal(k[name]) for name in "ohlcvqVQ"]
    return Bar(
        "v", symbol, k["t"] * MS, recv, k["i"], *numbers, k["n"], k["x"],
        channel="klines:1m", origin="live",
    )  # fmt: skip


def binance(recv, frame):
    """Read a frame in the plainest way."""
    d = frame["data"]
    channel, symbol = frame["stream"].split("@")[1], d["s"]
    ts = (d.get("T") or d.get("E") or 0) * MS or recv
    if channel in ("trade", "aggTrade"):
        number = d["t"] if channel == "trade" else d["a"]
        side = "sell" if d["m"] else "buy"
        return Trade("v", symbol, ts, recv, Decimal(d["p"]), Decimal(d["q"]), side, number, channel)
    if channel == "bookTicker":
        numbers = [Decimal(d[name]) for name in "bBaA"]
        return Quote("v", symbol, ts, recv, *numbers, d["u"])
    if channel.startswith("depth"):
        return Book("v", symbol, ts, recv, "delta", d["b"], d["a"], d["U"], d["u"], d.get("pu"))
    return kline(symbol, recv, d["k"])


@pytest.mark.parametrize("name", BINANCE)
def test_every_event_of_a_real_capture_passes_and_no_gap_is_seen(name):
    events = [binance(recv, frame) for recv, frame in frames(name)]
    counters = Counter()

    out = quality(Settings(), counters, UnfilledGaps("v"))(events)

    assert {type(event) for event in out} >= {Trade, Quote, Book}
    assert out is events
    assert not counters


@pytest.mark.parametrize("name", BINANCE)
def test_real_snapshots_pass(name):
    events = []
    for path in sorted(CAPTURES.glob(f"{name.split('.')[0]}.rest.*depth*.json")):
        body = json.loads(path.read_text())
        events.append(Book("v", path.name, 0, 0, "snapshot", body["bids"], body["asks"]))
    if not events:
        pytest.skip(f"no snapshots of {name} in {CAPTURES}: set TAPELOOM_CAPTURES")

    assert quality(Settings(), Counter(), UnfilledGaps("v"))(events) is events


def test_trades_with_text_ids_pass():
    trades = [
        Trade("v", one["coin"], one["time"] * MS, recv, Decimal(one["px"]), Decimal(one["sz"]), None, str(one["tid"]))
        for recv, frame in frames("hyperliquid/btc_20250126_a.ws.jsonl")
        if frame.get("channel") == "trades"
        for one in frame["data"]
    ]  # fmt: skip

    assert trades
    assert quality(Settings(), Counter(), UnfilledGaps("v"))(trades) is trades


def test_quotes_that_are_sent_again_unchanged_pass():
    quotes = []
    for _, frame in frames("bybit/v5_spot_testnet_20260913.ws.jsonl"):
        if (
            frame.get("topic") == "orderbook.1.BTCUSDT"
            and frame["data"]["b"]
            and frame["data"]["a"]
        ):
            d, ts = frame["data"], frame["ts"] * MS
            numbers = [Decimal(text) for text in (*d["b"][0], *d["a"][0])]
            quotes.append(Quote("v", "BTC/USDT", ts, ts, *numbers, d["u"]))

    assert quotes
    assert quality(Settings(), Counter(), UnfilledGaps("v"))(quotes) is quotes
