"""Recorded frames and REST bodies are parsed into the expected events."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
import tapeloom_hyperliquid
from tapeloom.events import Bar, Book, Quote, Trade
from tapeloom.plugin import Frames, Request

CAPTURE, PERP, MS = "btc_20250126_a", "BTC/USDC:USDC", 1_000_000


@pytest.fixture(scope="module")
def oracle(captures) -> dict[str, Any]:
    found = json.loads((captures / "oracles/oracles.json").read_text())["captures"]
    return found[f"hyperliquid/{CAPTURE}"]


@pytest.fixture(scope="module")
def events(recorded, make) -> list[Any]:
    feed = make(channels=("trades", "book:20"))
    found = tapeloom_hyperliquid.parse(feed)(recorded(CAPTURE))

    assert not feed.counters
    return found


def test_two_of_thirty_two_trades_are_live(events, oracle) -> None:
    trades = [event for event in events if type(event) is Trade]
    wanted = oracle["symbols"]["BTC"]["trade"]
    first, *rest = oracle["trades_per_frame_n_first_last_ms"]

    assert [trade.origin for trade in trades] == ["history"] * first[0] + ["live"] * len(rest)
    assert sum(trade.origin == "live" for trade in trades) == 2
    assert len(trades) == wanted["trades"] == 32
    assert sum(trade.size for trade in trades) == Decimal(wanted["sum_qty"])
    assert sum(trade.size * trade.price for trade in trades) == Decimal(wanted["sum_quote"])
    bought = [trade.size for trade in trades if trade.side == "buy"]
    assert sum(bought) == Decimal(wanted["sum_qty_taker_buy"])
    for trade, end in ((trades[0], "first"), (trades[-1], "last")):
        assert trade.price == Decimal(wanted[f"{end}_price"])
        assert trade.id == str(wanted[f"{end}_id"])
        assert trade.ts == wanted[f"{end}_trade_ms"] * MS


def test_books_equal_the_oracle(events, oracle) -> None:
    books = [event for event in events if type(event) is Book]
    wanted = oracle["symbols"]["BTC"]["depth"]

    assert len(books) == wanted["n"]
    assert {len(side) for book in books for side in (book.bids, book.asks)} == {20}
    assert sum(book.bids[0][0] >= book.asks[0][0] for book in books) == wanted["crossed"]
    for book, end in ((books[0], "first"), (books[-1], "last")):
        top = wanted[f"{end}_top5"]
        assert book.ts == top["time"] * MS
        assert [[*level] for level in book.raw_bids[:5]] == [row[:2] for row in top["bids"]]
        assert [[*level] for level in book.raw_asks[:5]] == [row[:2] for row in top["asks"]]


def test_one_frame_at_a_time_gives_the_same_events(recorded, make, events) -> None:
    parse = tapeloom_hyperliquid.parse(make(channels=("trades", "book:20")))

    assert [e for frame in recorded(CAPTURE) for e in parse(Frames([frame], 7))] == events


def test_the_same_frames_on_another_connection_give_nothing_twice(recorded, make) -> None:
    """All of it once more, as after a reconnect: books are as good as before, trades are known."""
    feed = make(channels=("trades",))
    parse = tapeloom_hyperliquid.parse(feed)
    frames = [frame for frame in recorded(CAPTURE) if b'"trades"' in frame]
    about = {"method": "subscribe", "subscription": {"type": "trades", "coin": "BTC"}}
    answer = json.dumps({"channel": "subscriptionResponse", "data": about}).encode()
    first = [e for e in parse(Frames([answer, *frames])) if type(e) is Trade]
    again = [e for e in parse(Frames([answer, frames[0]])) if type(e) is Trade]

    assert (len(first), again, feed.counters["repeated_trades"]) == (32, [], 30)


def test_samples_of_every_kind_are_parsed(recorded, make) -> None:
    symbols, channels = ("HYPE/USDC:USDC",), ("trades", "book:20", "klines:1d", "quotes")
    feed = make(symbols=symbols, channels=channels)
    events = tapeloom_hyperliquid.parse(feed)(recorded("samples_jkorf"))
    _, _, bar, closed, quote = events

    assert [type(event) for event in events] == [Trade, Book, Bar, Bar, Quote]
    assert (bar.closed, closed.closed) == (False, True)  # the quote is of some days later
    assert str(bar.volume) == "3495670.8399999999"
    assert (quote.bid, quote.ask) == (Decimal("23.757"), Decimal("23.758"))


@pytest.mark.parametrize(
    ("file", "body", "symbol", "count"),
    [
        ("nautilus.rest.l2_book_btc", {"type": "l2Book", "coin": "BTC"}, PERP, 1),
        ("nautilus.rest.recent_trades_btc", {"type": "recentTrades", "coin": "BTC"}, PERP, 3),
        ("sdk.rest.l2Book", {"type": "l2Book", "coin": "DYDX"}, "DYDX/USDC:USDC", 1),
        (
            "sdk.rest.candleSnapshot",
            {"type": "candleSnapshot", "req": {"coin": "kPEPE", "interval": "1h", "startTime": 0}},
            "KPEPE/USDC:USDC",
            24,
        ),
    ],
)
def test_rest_answers_are_parsed(captures, make, file, body, symbol, count) -> None:
    channels = ("trades", "book:20", "klines:1h")
    history = tapeloom_hyperliquid.history(make(symbols=(symbol,), channels=channels))
    request = Request(url="https://x/info", body=json.dumps(body).encode())
    found = history.read_answer(request, (captures / f"hyperliquid/{file}.json").read_bytes(), 9)

    assert len(found) == count
    assert [event.ts for event in found] == sorted(event.ts for event in found)
    assert {event.symbol for event in found} == {symbol}


@pytest.mark.parametrize(
    ("file", "count"), [("nautilus.rest.meta_perp_sample", 3), ("sdk.rest.meta", 28)]
)
def test_listings_are_parsed(captures, make, file, count) -> None:
    history = tapeloom_hyperliquid.history(make())
    found = history.read_listing((captures / f"hyperliquid/{file}.json").read_bytes())

    assert len(found) == count
    assert found[0].lot == Decimal("0.00001")
    assert all(instrument.active for instrument in found)
