"""Real recordings through the whole pipeline, held against what they must give."""

from __future__ import annotations

import bisect
import csv
import gzip
import json
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import tapeloom
from tapeloom import Bar, Book, Event, FeedSpec, Gap, Quote, Reject, Stack, Status, Trade, encode

pytestmark = pytest.mark.anyio

#: recording → market, symbols by the venue's name, channels
RECORDINGS: dict[str, tuple[str, dict[str, str], tuple[str, ...]]] = {
    "binance_spot/btcusdt_20240808": (
        "spot",
        {"BTCUSDT": "BTC/USDT"},
        ("trades", "quotes", "book"),
    ),
    "binance_spot/cf_20211012": (
        "spot",
        {"NKNUSDT": "NKN/USDT", "BLZETH": "BLZ/ETH", "LRCBTC": "LRC/BTC", "RUNEEUR": "RUNE/EUR"},
        ("agg_trades", "quotes", "book", "klines:1m"),
    ),
    "binance_usdm/btcusdt_20240718": (
        "usdm",
        {"BTCUSDT": "BTC/USDT:USDT"},
        ("trades", "quotes", "book"),
    ),
    "binance_usdm/cf_20210722": (
        "usdm",
        {
            "SUSHIUSDT": "SUSHI/USDT:USDT",
            "AKROUSDT": "AKRO/USDT:USDT",
            "KEEPUSDT": "KEEP/USDT:USDT",
            "CTKUSDT": "CTK/USDT:USDT",
        },
        ("agg_trades", "quotes", "book", "klines:1m"),
    ),
    "binance_coinm/ethusd_perp_20240808": (
        "coinm",
        {"ETHUSD_PERP": "ETH/USD:ETH"},
        ("trades", "quotes", "book"),
    ),
}
SYMBOLS = [(name, native) for name, (_, symbols, _) in RECORDINGS.items() for native in symbols]
STAGES = ("quality", "books", "bars")


def path_of(recordings: Path, name: str) -> Path:
    plain = recordings / f"{name}.ws.jsonl"
    return plain if plain.exists() else plain.with_suffix(".jsonl.gz")


def stack(name: str, stages: tuple[str, ...] = STAGES) -> Stack:
    market, symbols, channels = RECORDINGS[name]
    feed = FeedSpec("binance", tuple(symbols.values()), channels, market=market, stages=stages)
    return Stack(feeds=(feed,), stages={"bars": {"every": ["1s", "1m"]}}, venues=RAW)


#: The recorder had subscribed to the raw trades of the futures markets.
RAW = {"binance": {"futures_trades": "raw"}}
_replayed: dict[str, list[Event]] = {}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def replayed(recordings: Path, name: str) -> list[Event]:
    """Replay a recording once; the tests share what it gave."""
    if name not in _replayed:
        async with tapeloom.replay(path_of(recordings, name), stack(name)) as stream:
            _replayed[name] = [event async for event in stream]
    return _replayed[name]


def normal(value: Decimal) -> Decimal:
    return value.normalize()


@pytest.mark.parametrize(("name", "native"), SYMBOLS)
async def test_trades_equal_the_oracle(
    recordings: Path, oracles: dict[str, Any], name: str, native: str
) -> None:
    known = oracles[name]["symbols"][native]
    expected = known.get("trade") or known.get("aggTrade")
    symbol = RECORDINGS[name][1][native]
    trades = [
        event
        for event in await replayed(recordings, name)
        if type(event) is Trade and event.symbol == symbol
    ]
    if expected is None:
        assert trades == []
        return
    bought = sum((t.size for t in trades if t.side == "buy"), Decimal(0))

    assert len(trades) == expected["trades"]
    assert sum(t.size for t in trades) == Decimal(expected["sum_qty"])
    assert sum(t.size * t.price for t in trades) == Decimal(expected["sum_quote"])
    assert bought == Decimal(expected["sum_qty_taker_buy"])
    assert trades[0].price == Decimal(expected["first_price"])
    assert trades[-1].price == Decimal(expected["last_price"])
    assert max(t.price for t in trades) == Decimal(expected["high"])
    assert min(t.price for t in trades) == Decimal(expected["low"])
    assert (trades[0].id, trades[-1].id) == (expected["first_id"], expected["last_id"])
    assert trades[0].ts == expected["first_trade_ms"] * 1_000_000
    assert trades[-1].ts == expected["last_trade_ms"] * 1_000_000


@pytest.mark.parametrize("interval", ["1s", "1m"])
@pytest.mark.parametrize(("name", "native"), SYMBOLS)
async def test_bars_equal_the_oracle(
    recordings: Path, name: str, native: str, interval: str
) -> None:
    file = recordings / f"oracles/bars/{name}.{native}.{interval}.csv"
    if not file.exists():
        pytest.skip(
            f"there is no oracle for the {interval} bars of {native}: it has too few trades"
        )
    symbol = RECORDINGS[name][1][native]
    latest: dict[int, Bar] = {}
    for event in await replayed(recordings, name):
        if (
            type(event) is Bar
            and event.symbol == symbol
            and event.interval == interval
            and event.origin == "built_from_trades"
        ):
            latest[event.ts] = event
    got = [
        [
            bar.ts // 1_000_000,
            *map(normal, (bar.open, bar.high, bar.low, bar.close, bar.volume)),
            bar.trades,
            normal(bar.quote_volume),
            normal(bar.buy_volume),
        ]
        for _, bar in sorted(latest.items())
    ]
    expected = [
        [
            int(row["open_time_ms"]),
            *(normal(Decimal(row[key])) for key in ("open", "high", "low", "close", "volume")),
            int(row["count"]),
            normal(Decimal(row["quote_volume"])),
            normal(Decimal(row["taker_buy_volume"])),
        ]
        for row in csv.DictReader(file.read_text().splitlines())
    ]

    assert got == expected


async def test_whole_minutes_equal_the_exchanges_own_klines_in_every_column(
    recordings: Path,
) -> None:
    name = "binance_usdm/btcusdt_20240718"
    klines = {
        int(row["open_time"]): row
        for row in csv.DictReader(
            (recordings / f"{name}.exchange_klines_1m.csv").read_text().splitlines()
        )
    }
    bars = {
        bar.ts // 1_000_000: bar
        for bar in await replayed(recordings, name)
        if type(bar) is Bar and bar.interval == "1m" and bar.complete and bar.closed
    }

    assert len(bars) == 7
    for start, bar in bars.items():
        row = klines[start]
        assert bar.open == Decimal(row["open"])
        assert bar.high == Decimal(row["high"])
        assert bar.low == Decimal(row["low"])
        assert bar.close == Decimal(row["close"])
        assert bar.volume == Decimal(row["volume"])
        assert bar.ts + 60_000_000_000 - 1_000_000 == int(row["close_time"]) * 1_000_000
        assert bar.quote_volume == Decimal(row["quote_volume"])
        assert bar.trades == int(row["count"])
        assert bar.buy_volume == Decimal(row["taker_buy_volume"])
        assert bar.buy_quote_volume == Decimal(row["taker_buy_quote_volume"])


@pytest.mark.parametrize("name", RECORDINGS)
async def test_a_good_recording_has_no_gap_no_reject_and_no_stale_book(
    recordings: Path, name: str
) -> None:
    events = await replayed(recordings, name)

    assert [event for event in events if type(event) in (Gap, Reject)] == []
    assert [e for e in events if type(e) is Status and e.state in {"stale", "crossed"}] == []


@pytest.mark.parametrize(("name", "native"), SYMBOLS)
async def test_books_agree_with_the_exchanges_own_best_bid_and_ask(
    recordings: Path, oracles: dict[str, Any], name: str, native: str
) -> None:
    """After each applied update, against the quote with the greatest id not above it."""
    expected = oracles[name]["symbols"][native]["depth"]
    symbol = RECORDINGS[name][1][native]
    feed_stack = stack(name, ("quality", "books"))
    quotes: dict[int, tuple[Decimal, ...]] = {}
    own: dict[int, tuple[Decimal, ...]] = {}
    async with tapeloom.replay(path_of(recordings, name), feed_stack, batch=1) as stream:
        kept = stream.stage("books")
        async for event in stream.consume(size=1):
            if event.symbol != symbol:
                continue
            if type(event) is Quote and event.origin == "live" and event.sequence is not None:
                quotes[event.sequence] = (event.bid, event.bid_size, event.ask, event.ask_size)
            elif (
                type(event) is Quote
                and event.origin == "built_from_book"
                and event.sequence is not None
            ):
                own[event.sequence] = (event.bid, event.bid_size, event.ask, event.ask_size)
            elif type(event) is Book and event.kind == "snapshot" and event.last_id is not None:
                # What waited for it is applied in one go, and told of once, at the end.
                own[event.last_id] = (*event.bids[0], *event.asks[0])
    book = kept.books[symbol, "book"]
    top = [book.top(5)[0], book.top(5)[1]]
    compared, matched = compare(applied_ids(recordings, name, native, expected), quotes, own)

    assert [[[normal(p), normal(s)] for p, s in side] for side in top] == [
        [[normal(Decimal(p)), normal(Decimal(s))] for p, s in expected["final_book"]["top5"][side]]
        for side in ("bids", "asks")
    ]
    check = expected.get("check_vs_bookTicker")
    if check is not None:
        assert (compared, matched) == (check["compared"], check["price_and_qty_match"])


def applied_ids(recordings: Path, name: str, native: str, expected: dict[str, Any]) -> list[int]:
    """Return the final ids of the updates that come after the snapshot, straight from the file."""
    path = path_of(recordings, name)
    opened = gzip.open if path.suffix == ".gz" else open
    ids = []
    with opened(path, "rb") as lines:
        for line in lines:
            data = json.loads(json.loads(line)["frame"])["data"]
            if data.get("e") == "depthUpdate" and data["s"] == native:
                ids.append(data["u"])
    return [u for u in ids if u >= expected["first_applied"]["u"]]


def compare(
    applied: list[int], quotes: dict[int, tuple[Decimal, ...]], own: dict[int, tuple[Decimal, ...]]
) -> tuple[int, int]:
    """Count the places that can be compared, and those that agree."""
    theirs, ours = sorted(quotes), sorted(own)
    compared = matched = 0
    for u in applied:
        at = bisect.bisect_right(theirs, u)
        mine = bisect.bisect_right(ours, u)
        if at and mine:
            compared += 1
            matched += quotes[theirs[at - 1]] == own[ours[mine - 1]]
    return compared, matched


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDINGS)
async def test_the_same_recording_gives_the_same_bytes_at_any_batch_size(
    recordings: Path, name: str
) -> None:
    first = [encode(event) for event in await replayed(recordings, name)]
    for batch in (1, 7, 64, 4096):
        async with tapeloom.replay(path_of(recordings, name), stack(name), batch=batch) as stream:
            again = [encode(event) async for event in stream]

        assert again == first


async def test_klines_of_the_venue_grow_by_the_trades_between_them(
    recordings: Path, oracles: dict[str, Any]
) -> None:
    """The venue's own candles and our trades are of the same market."""
    name = "binance_usdm/cf_20210722"
    events = await replayed(recordings, name)
    counted: dict[str, int] = defaultdict(int)
    for event in events:
        if type(event) is Bar and event.origin == "live":
            counted[event.symbol] += 1

    for native, symbol in RECORDINGS[name][1].items():
        assert counted[symbol] == oracles[name]["symbols"][native]["kline_1m"]["n"]


async def test_every_depth_frame_becomes_a_book_event(
    recordings: Path, oracles: dict[str, Any]
) -> None:
    for name, (_, symbols, _) in RECORDINGS.items():
        deltas: dict[str, int] = defaultdict(int)
        for event in await replayed(recordings, name):
            if type(event) is Book and event.kind == "delta":
                deltas[event.symbol] += 1

        for native, symbol in symbols.items():
            assert deltas[symbol] == oracles[name]["symbols"][native]["depth"]["n"]
