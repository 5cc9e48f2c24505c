"""Recorded frames are parsed into the expected events, compared with independent oracles."""

from __future__ import annotations

import json
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
import tapeloom_binance
from tapeloom.events import Bar, Book, Quote, Trade
from tapeloom.plugin import Frames, Request

FEEDS: dict[str, tuple[str, dict[str, str], tuple[str, ...]]] = {
    "binance_spot/btcusdt_20240808": (
        "spot",
        {"BTCUSDT": "BTC/USDT"},
        ("trades", "book", "quotes"),
    ),
    "binance_usdm/btcusdt_20240718": (
        "usdm",
        {"BTCUSDT": "BTC/USDT:USDT"},
        ("trades", "book", "quotes"),
    ),
    "binance_spot/cf_20211012": (
        "spot",
        {"NKNUSDT": "NKN/USDT", "BLZETH": "BLZ/ETH", "LRCBTC": "LRC/BTC", "RUNEEUR": "RUNE/EUR"},
        ("agg_trades", "book", "quotes", "klines:1m"),
    ),
    "binance_usdm/cf_20210722": (
        "usdm",
        {
            "SUSHIUSDT": "SUSHI/USDT:USDT",
            "AKROUSDT": "AKRO/USDT:USDT",
            "KEEPUSDT": "KEEP/USDT:USDT",
            "CTKUSDT": "CTK/USDT:USDT",
        },
        ("trades", "book", "quotes", "klines:1m"),
    ),
    "binance_coinm/ethusd_perp_20240808": (
        "coinm",
        {"ETHUSD_PERP": "ETH/USD:ETH"},
        ("trades", "book", "quotes"),
    ),
}


@pytest.fixture(scope="module", params=sorted(FEEDS))
def replayed(request, captures, recorded, make) -> tuple[str, Frames, list[Any], dict[str, Any]]:
    market, symbols, channels = FEEDS[request.param]
    feed = make(market, tuple(symbols.values()), channels)
    frames = recorded(request.param)
    events = tapeloom_binance.parse(feed)(frames)
    oracle = json.loads((captures / "oracles" / "oracles.json").read_text())["captures"]

    assert not feed.counters["unrequested"]
    return request.param, frames, events, oracle[request.param]


def events_of(events: list[Any], kind: type, symbol: str) -> list[Any]:
    return [event for event in events if type(event) is kind and event.symbol == symbol]


def test_every_frame_is_one_event_of_the_expected_kind(replayed) -> None:
    _, frames, events, oracle = replayed
    kinds = {"depth@100ms": Book, "depth@0ms": Book, "bookTicker": Quote, "kline_1m": Bar}
    counts = {
        kind: sum(n for name, n in oracle["channels"].items() if kinds.get(name, Trade) is kind)
        for kind in (Book, Quote, Bar, Trade)
    }

    assert len(events) == len(frames) == oracle["frames"]
    assert {kind: sum(type(e) is kind for e in events) for kind in counts} == counts


def test_one_frame_at_a_time_gives_the_same_events(replayed, make) -> None:
    name, frames, events, _ = replayed
    market, symbols, channels = FEEDS[name]
    parse = tapeloom_binance.parse(make(market, tuple(symbols.values()), channels))
    singly = [event for frame in frames[:15_000] for event in parse(Frames([frame], recv=7))]

    assert singly == events[:15_000]


def test_trades_equal_the_oracle(replayed) -> None:
    name, _, events, oracle = replayed
    for native, symbol in FEEDS[name][1].items():
        figures = oracle["symbols"][native]
        wanted = figures.get("trade") or figures.get("aggTrade")
        trades: list[Trade] = events_of(events, Trade, symbol)
        if wanted is None:
            assert not trades
            continue
        bought = [trade.size for trade in trades if trade.side == "buy"]

        assert len(trades) == wanted["trades"]
        assert sum(trade.size for trade in trades) == Decimal(wanted["sum_qty"])
        assert sum(t.size * t.price for t in trades) == Decimal(wanted["sum_quote"])
        assert sum(bought) == Decimal(wanted["sum_qty_taker_buy"])
        for trade, end in ((trades[0], "first"), (trades[-1], "last")):
            assert trade.price == Decimal(wanted[f"{end}_price"])
            assert trade.id == wanted[f"{end}_id"]
            assert trade.ts == wanted[f"{end}_trade_ms"] * 1_000_000


def test_quotes_equal_the_oracle(replayed) -> None:
    name, _, events, oracle = replayed
    for native, symbol in FEEDS[name][1].items():
        quotes: list[Quote] = events_of(events, Quote, symbol)
        wanted = oracle["symbols"][native].get("bookTicker", {"n": 0})

        assert len(quotes) == wanted["n"]
        for end, place in (("first", 0), ("last", -1)):
            if quotes:
                q = quotes[place]
                assert [q.bid, q.bid_size, q.ask, q.ask_size] == [*map(Decimal, wanted[end])]


def test_book_deltas_equal_the_oracle_and_are_in_sequence(replayed) -> None:
    name, _, events, oracle = replayed
    market, symbols, _ = FEEDS[name]
    for native, symbol in symbols.items():
        books: list[Book] = events_of(events, Book, symbol)
        wanted = oracle["symbols"][native]["depth"]
        if market == "spot":
            gaps = [b for a, b in pairwise(books) if b.first_id != a.last_id + 1]
        else:
            gaps = [b for a, b in pairwise(books) if b.previous_id != a.last_id]

        assert len(books) == wanted["n"]
        assert (books[0].first_id, books[-1].last_id) == (wanted["first_U"], wanted["last_u"])
        assert len(gaps) == wanted["sequence_gaps"]
        assert {book.kind for book in books} == {"delta"}


def test_klines_equal_the_oracle(replayed) -> None:
    name, _, events, oracle = replayed
    for native, symbol in FEEDS[name][1].items():
        bars: list[Bar] = events_of(events, Bar, symbol)
        wanted = oracle["symbols"][native].get("kline_1m", {"n": 0, "closed": 0})

        assert len(bars) == wanted["n"]
        assert sum(bar.closed for bar in bars) == wanted["closed"]
        if bars:
            last, bar = wanted["last"], bars[-1]
            assert bar.ts == last["t"] * 1_000_000
            prices = [bar.open, bar.high, bar.low, bar.close, bar.volume]
            assert [*map(str, prices)] == [str(Decimal(last[key])) for key in "ohlcv"]
            assert (bar.trades, bar.channel, bar.origin) == (last["n"], "klines:1m", "live")


@pytest.mark.parametrize("name", sorted(FEEDS))
def test_snapshots_are_read_by_their_url(name, captures, make) -> None:
    market, symbols, channels = FEEDS[name]
    history = tapeloom_binance.history(make(market, tuple(symbols.values()), channels))
    others = [
        tapeloom_binance.history(make(name, (), channels))
        for name in ("spot", "usdm", "coinm")
        if name != market
    ]
    index = json.loads((captures / f"{name}.rest.index.json").read_text())
    folder = (captures / name).parent
    for entry in index:
        if "depth" not in entry["url"]:
            continue
        body = (folder / entry["file"]).read_bytes()
        (book,) = history.read_answer(Request(url=entry["url"]), body, recv=9)
        native = entry["url"].partition("symbol=")[2].partition("&")[0]
        wanted = oracle_of(captures, name, native)
        raw = json.loads(body)

        assert book.symbol == symbols[native]
        assert (book.kind, book.origin, book.channel) == ("snapshot", "history", "book")
        assert (book.first_id, book.last_id, book.depth) == (None, wanted, 1000)
        assert [[*level] for level in book.raw_bids] == raw["bids"]
        assert [[*level] for level in book.raw_asks] == raw["asks"]
        assert book.ts == (9 if market == "spot" else raw["T"] * 1_000_000)
        assert [o.read_answer(Request(url=entry["url"]), body, recv=9) for o in others] == [[], []]


def oracle_of(captures, name: str, native: str) -> int:
    oracle = json.loads((captures / "oracles" / "oracles.json").read_text())["captures"]
    return oracle[name]["symbols"][native]["depth"]["snapshot_lastUpdateId"]
