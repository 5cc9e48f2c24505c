"""Recorded frames are parsed into the expected events, compared with independent oracles."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
import tapeloom_bybit
from tapeloom.events import Bar, Book, Gap, Quote, Reject, Ticker, Trade
from tapeloom.plugin import Frames, Notice, Pong, Refusal, Request

STREAM, SAMPLES = "v5_spot_testnet_20260913", "samples_nautilus"
CHANNELS = ("trades", "quotes", "book:50")


@pytest.fixture(scope="module")
def replayed(make, recorded) -> tuple[list[Any], list[Any], Any]:
    """The events of the testnet's stream, the replies to requests, and the feed."""
    feed = make("spot", *CHANNELS)
    codec, replies = tapeloom_bybit.subscribe(feed), []
    frames = recorded(STREAM)
    frames.on_control = lambda frame: replies.append(codec.decode_reply(frame)) or ()
    return tapeloom_bybit.parse(feed)(frames), replies, feed


@pytest.fixture(scope="module")
def oracle(folder) -> dict[str, Any]:
    figures = json.loads((folder.parent / "oracles" / "oracles.json").read_text("utf-8"))
    return figures["captures"][f"bybit/{STREAM}"]["symbols"]


def test_trades_equal_the_oracle(replayed, oracle) -> None:
    trades = [event for event in replayed[0] if type(event) is Trade]
    wanted = oracle["BTCUSDT"]["trade"]

    assert len(trades) == wanted["trades"] == 8
    assert sum(trade.size for trade in trades) == Decimal(wanted["sum_qty"]) == Decimal("0.019541")
    assert sum(t.size * t.price for t in trades) == Decimal(wanted["sum_quote"])
    assert sum(t.size for t in trades if t.side == "buy") == Decimal(wanted["sum_qty_taker_buy"])
    assert [trades[0].id, trades[-1].id] == [wanted["first_id"], wanted["last_id"]]
    assert trades[-1].ts == wanted["last_trade_ms"] * 10**6


def test_books_and_quotes_equal_the_oracle(replayed, oracle) -> None:
    events, _, feed = replayed
    books = [event for event in events if type(event) is Book]
    quotes = [event for event in events if type(event) is Quote]
    deep, top = oracle["orderbook.50.BTCUSDT"]["depth"], oracle["orderbook.1.BTCUSDT"]["depth"]

    assert (len(books), books[0].last_id, books[-1].last_id) == (
        deep["n"],
        deep["first_u"],
        deep["last_u"],
    )
    assert [book.kind for book in books] == ["snapshot"] + ["delta"] * (deep["n"] - 1)
    assert (len(quotes), feed.counters["repeats"]) == (top["n"], 2)
    best = [level[0] for level in top["final_book"]["top5"].values()]
    assert [[quotes[-1].bid, quotes[-1].bid_size], [quotes[-1].ask, quotes[-1].ask_size]] == [
        [*map(Decimal, level)] for level in best
    ]


def test_all_other_frames_are_replies(replayed) -> None:
    events, replies, _ = replayed

    # The request ids of the recorder have another format than ours.
    assert [type(reply) for reply in replies] == [Notice, Pong, Refusal]
    assert "NOSUCHSYM" in replies[-1].reason
    assert not any(type(event) is Reject for event in events)


def test_the_book_has_the_same_top_as_the_quotes(make, recorded, oracle) -> None:
    """At each of the 12 times of the matching engine that both channels have."""
    books = pytest.importorskip("tapeloom_books", reason="tapeloom-books is not installed")
    feed = make("spot", "book:1", "book:50")
    stage = books.Books(feed, books.Settings())
    frames = recorded(STREAM)
    frames.on_control = lambda _: ()
    best: dict[str, dict[int, Any]] = {"book:1": {}, "book:50": {}}
    for event in tapeloom_bybit.parse(feed)(frames):
        outputs = stage([event])
        best[event.channel][event.ts] = stage.books["BTC/USDT", event.channel].top(1)
        assert not any(type(output) is Gap for output in outputs)
    both = best["book:1"].keys() & best["book:50"].keys()
    top = oracle["orderbook.50.BTCUSDT"]["depth"]["final_book"]
    book = stage.books["BTC/USDT", "book:50"]

    assert len(both) == 12
    assert [best["book:1"][ts] for ts in both] == [best["book:50"][ts] for ts in both]
    assert (len(book.bids), len(book.asks)) == (top["n_bids"], top["n_asks"])
    assert book.top(5) == tuple(
        [tuple(map(Decimal, level)) for level in top["top5"][side]] for side in ("bids", "asks")
    )


def test_one_frame_at_a_time_gives_the_same_events(replayed, make, recorded) -> None:
    parse = tapeloom_bybit.parse(make("spot", *CHANNELS))
    singly = [
        event for frame in recorded(STREAM) for event in parse(Frames([frame], 7, lambda _: ()))
    ]

    assert singly == replayed[0]


def test_every_sample_of_a_stream_is_read(make, recorded) -> None:
    feed = make("linear", "book:1", "klines:5m", "ticker")
    codec, replies = tapeloom_bybit.subscribe(feed), []
    frames = recorded(SAMPLES)
    frames.on_control = lambda frame: replies.append(codec.decode_reply(frame)) or ()
    events = tapeloom_bybit.parse(feed)(frames)

    assert [type(event) for event in events] == [Bar, Book, Book, Ticker]
    assert [book.kind for book in events[1:3]] == ["delta", "snapshot"]
    assert None not in replies
    assert feed.counters["unrequested"] == 1  # an option's ticker


def test_every_sample_of_rest_is_read(make, folder) -> None:
    feed = make("linear", "trades", "book", "klines:1m", symbols=("BTC/USDT:USDT",))
    linear, spot = tapeloom_bybit.history(feed), tapeloom_bybit.history(make())

    def text(name: str) -> bytes:
        return (folder / f"{SAMPLES}.rest.{name}.json").read_bytes()

    def answer(path: str, name: str) -> list[Any]:
        address = f"https://x/v5/market/{path}&category=linear&symbol=BTCUSDT"
        return linear.read_answer(Request(url=address), text(name), 9)

    (bar,) = answer("kline?interval=1", "klines_linear")
    (book,) = answer("orderbook?limit=1000", "orderbook")
    (trade,) = answer("recent-trade?limit=1000", "trades_recent")
    assert (bar.close, bar.closed) == (Decimal(27455), False)
    assert (book.last_id, len(book.bids)) == (1234567, 3)
    assert (trade.side, trade.price) == ("buy", Decimal("27450.50"))
    assert [
        (instrument.symbol, instrument.tick)
        for instrument in linear.read_listing(text("instruments_linear"))
    ] == [("BTC/USDT:USDT", Decimal("0.5")), ("ETH/USDT:USDT", Decimal("0.05"))]
    assert [
        (instrument.symbol, instrument.lot)
        for instrument in spot.read_listing(text("instruments_spot"))
    ] == [("BTC/USDT", Decimal("0.0001")), ("ETH/USDT", Decimal("0.00001"))]
