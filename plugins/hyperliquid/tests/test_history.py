"""REST: requests, their weights, and the parsing of answers."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
import tapeloom_hyperliquid
from tapeloom.plugin import HistoryQuery, Request

PERP, MS, MINUTE = "BTC/USDC:USDC", 1_000_000, 60_000_000_000
ALL = ("trades", "book:20", "klines:1m")


def asked(request: Request) -> dict[str, Any]:
    return json.loads(request.body)


def test_every_request_is_a_post_with_its_weight(make) -> None:
    history = tapeloom_hyperliquid.history(make(channels=ALL))
    book, trades = (history.request(HistoryQuery(kind, PERP)) for kind in ("book", "trades"))
    bars = history.request(HistoryQuery("bars", PERP, "klines:1m", "", 3 * MINUTE, 123 * MINUTE))

    assert asked(book) == {"type": "l2Book", "coin": "BTC"}
    assert asked(trades) == {"type": "recentTrades", "coin": "BTC"}
    assert asked(bars) == {
        "type": "candleSnapshot",
        "req": {"coin": "BTC", "interval": "1m", "startTime": 180_000, "endTime": 7_379_999},
    }
    assert (book.paged, trades.paged, bars.paged) == (False, False, True)
    assert (book.weight, trades.weight, bars.weight) == (2, 22, 23)
    assert {(request_.rate.count, request_.rate.seconds) for request_ in (book, trades, bars)} == {
        (1200, 60)
    }


def test_a_bars_request_without_a_start_is_for_500_bars(make) -> None:
    feed = make(channels=ALL)
    request = tapeloom_hyperliquid.history(feed).request(HistoryQuery("bars", PERP, interval="1h"))
    start = feed.clock.time_ns() - 500 * 60 * MINUTE

    assert asked(request)["req"] == {"coin": "BTC", "interval": "1h", "startTime": start // MS}


@pytest.mark.parametrize("interval", ["1s", "6h", ""])
def test_there_is_no_request_for_an_unknown_interval(make, interval) -> None:
    assert (
        tapeloom_hyperliquid.history(make()).request(HistoryQuery("bars", PERP, "", interval))
        is None
    )


@pytest.mark.parametrize(
    ("market", "symbols", "body"),
    [
        ("perp", (PERP,), {"type": "meta"}),
        ("perp", ("XYZ.TSLA/USDC:USDC",), {"type": "meta", "dex": "xyz"}),
        ("spot", ("PURR/USDC",), {"type": "spotMeta"}),
    ],
)
def test_the_listing_request_is_for_the_feeds_market(make, market, symbols, body) -> None:
    assert asked(tapeloom_hyperliquid.history(make(market, symbols)).listing_request()) == body


def listed(make, market: str, body: Any, symbols: tuple[str, ...] = ()) -> list[Any]:
    history = tapeloom_hyperliquid.history(make(market, symbols))
    return history.read_listing(json.dumps(body).encode())


def test_perpetuals_are_listed_with_their_lot(make) -> None:
    universe = [
        {"name": "BTC", "szDecimals": 5, "maxLeverage": 40, "marginTableId": 56},
        {"name": "kPEPE", "szDecimals": 0, "isDelisted": None},
        {"name": "OLD", "szDecimals": 1, "isDelisted": True},
        {"name": "with space", "szDecimals": 1},
    ]
    btc, pepe, old = listed(make, "perp", {"universe": universe, "collateralToken": 0})

    assert (btc.symbol, btc.native, btc.kind, btc.base, btc.quote, btc.settle) == (
        PERP, "BTC", "swap", "BTC", "USDC", "USDC",
    )  # fmt: skip
    assert (btc.lot, btc.tick, btc.active) == (Decimal("0.00001"), None, True)
    assert (pepe.symbol, pepe.native, pepe.lot) == ("KPEPE/USDC:USDC", "kPEPE", 1)
    assert not old.active


@pytest.mark.parametrize(
    ("token", "symbols", "wanted"),
    [
        (0, ("XYZ.TSLA/USDC:USDC",), "XYZ.TSLA/USDC:USDC"),
        (360, ("XYZ.GOLD/USDH:USDH",), "XYZ.TSLA/USDH:USDH"),
    ],
)
def test_the_settlement_of_a_builders_perpetuals_is_that_of_the_listing_or_the_symbols(
    make, token, symbols, wanted
) -> None:
    body = {"universe": [{"name": "xyz:TSLA", "szDecimals": 3}], "collateralToken": token}
    (instrument,) = listed(make, "perp", body, symbols)

    assert (instrument.symbol, instrument.native) == (wanted, "xyz:TSLA")


def test_pairs_are_named_by_their_tokens(make) -> None:
    tokens = [("USDC", 8, 0), ("PURR", 0, 1), ("HYPE", 2, 150), ("UBTC", 5, 197), ("HYPE", 1, 9)]
    body = {
        "tokens": [{"name": n, "szDecimals": d, "index": i} for n, d, i in tokens],
        "universe": [
            {"name": "@9", "tokens": [9, 0], "index": 9, "isCanonical": False},
            {"name": "PURR/USDC", "tokens": [1, 0], "index": 0, "isCanonical": True},
            {"name": "@107", "tokens": [150, 0], "index": 107, "isCanonical": True},
            {"name": "@142", "tokens": [197, 0], "index": 142, "isCanonical": False},
            {"name": "@5", "tokens": [77, 0], "index": 5},
        ],
    }
    found = {instrument.symbol: instrument for instrument in listed(make, "spot", body)}

    assert {symbol: instrument.native for symbol, instrument in found.items()} == {
        "PURR/USDC": "PURR/USDC",
        "HYPE/USDC": "@107",
        "BTC/USDC": "@142",
        "UBTC/USDC": "@142",
        "@9/USDC": "@9",
    }
    assert (found["HYPE/USDC"].lot, found["HYPE/USDC"].kind) == (Decimal("0.01"), "spot")


def test_a_name_of_two_tokens_is_refused_with_the_venues_own_names_of_both(make) -> None:
    tokens = [("USDC", 0), ("PUMP", 26), ("UPUMP", 299), ("feUSD", 5), ("FEUSD", 6)]
    body = {
        "tokens": [{"name": name, "szDecimals": 0, "index": index} for name, index in tokens],
        "universe": [
            {"name": "@20", "tokens": [26, 0], "index": 20},
            {"name": "@188", "tokens": [299, 0], "index": 188},
            {"name": "@5", "tokens": [5, 0], "index": 5},
            {"name": "@6", "tokens": [6, 0], "index": 6},
        ],
    }
    symbols = ("PUMP/USDC", "UPUMP/USDC", "@20/USDC", "FEUSD/USDC", "@6/USDC")
    feed = make("spot", symbols)
    feed.listing.update(tapeloom_hyperliquid.history(feed).read_listing(json.dumps(body).encode()))
    refused = {status.symbol: status.detail for status in feed.refuse_symbols("hyperliquid spot")}

    assert refused == {
        "PUMP/USDC": "hyperliquid spot has several instruments 'PUMP/USDC': @20, @188."
        " Write '@20/USDC' for @20 or 'UPUMP/USDC' for @188.",
        "FEUSD/USDC": "hyperliquid spot has several instruments 'FEUSD/USDC': @5, @6."
        " Write '@5/USDC' for @5 or '@6/USDC' for @6.",
    }
    assert feed.listing.native == {"UPUMP/USDC": "@188", "@20/USDC": "@20", "@6/USDC": "@6"}
    assert "mean" not in feed.listing.problem("UPUMP/USDC")


def request(body: dict[str, Any], url: str = "http://elsewhere/info") -> Request:
    return Request(url=url, body=json.dumps(body).encode())


def answered(make, body: dict[str, Any], answer: Any, channels=ALL, recv: int = 9) -> list[Any]:
    history = tapeloom_hyperliquid.history(make(channels=channels))
    return history.read_answer(request(body), json.dumps(answer).encode(), recv)


LEVEL = {"px": "1.0", "sz": "2", "n": 1}
BOOK = {"coin": "BTC", "time": 8, "levels": [[LEVEL] * 20, [LEVEL] * 20]}


@pytest.mark.parametrize(
    ("channels", "wanted"),
    [(("book:20", "book:5"), ("book:20", 20)), (("book:5",), ("book:5", 5)), (("trades",), None)],
)
def test_a_book_has_the_channel_of_the_feed(make, channels, wanted) -> None:
    books = answered(make, {"type": "l2Book", "coin": "BTC"}, BOOK, channels)

    assert [(book.channel, len(book.raw_bids)) for book in books] == ([wanted] if wanted else [])
    assert all(book.origin == "history" and book.ts == 8 * MS for book in books)


def test_a_missing_book_gives_no_event(make) -> None:
    assert answered(make, {"type": "l2Book", "coin": "BTC"}, None) == []


def test_trades_are_returned_oldest_first(make) -> None:
    rows = [
        {"coin": "BTC", "side": "B", "px": "1", "sz": "1", "time": time, "tid": tid}
        for tid, time in ((4, 9), (3, 8), (2, 8), (1, 7))
    ]
    trades = answered(make, {"type": "recentTrades", "coin": "BTC"}, rows)

    assert [(trade.id, trade.origin) for trade in trades] == [(n, "backfill") for n in "1234"]


def test_the_last_bar_is_closed_after_its_end(make) -> None:
    body = {"type": "candleSnapshot", "req": {"coin": "BTC", "interval": "1m", "startTime": 0}}
    more = {"s": "BTC", "i": "1m", "o": "1", "c": "1", "h": "1", "l": "1", "v": "1", "n": 1}
    rows = [{"t": n * 60_000, "T": n * 60_000 + 59_999, **more} for n in range(3)]

    def closed(recv: int) -> list[bool]:
        return [bar.closed for bar in answered(make, body, rows, recv=recv)]

    assert closed(3 * MINUTE) == [True, True, True]
    assert closed(3 * MINUTE - 2 * MS) == [True, True, False]
    assert {bar.origin for bar in answered(make, body, rows)} == {"backfill"}


@pytest.mark.parametrize(
    ("body", "url"),
    [
        ({"type": "l2Book", "coin": "ETH"}, "http://x/info"),
        ({"type": "allMids"}, "http://x/info"),
        ({"type": "meta"}, "http://x/info"),
        ({"type": "l2Book", "coin": "BTC"}, "http://x/other"),
    ],
)
def test_answers_to_foreign_requests_give_no_events(make, body, url) -> None:
    history = tapeloom_hyperliquid.history(make(channels=ALL))

    assert history.read_answer(request(body, url), b"{}", 9) == []
    assert history.read_answer(Request(url=url), b"{}", 9) == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[" * 100_000, b'{"universe":[{}]}'])
def test_the_error_of_an_unreadable_answer_names_the_request(make, body) -> None:
    history = tapeloom_hyperliquid.history(make(channels=ALL))
    with pytest.raises(ValueError, match="the answer to meta cannot be read"):
        history.read_listing(body)
    with pytest.raises(ValueError, match="the answer to l2Book cannot be read"):
        history.read_answer(request({"type": "l2Book", "coin": "BTC"}), body, 9)


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (429, b"null", "Too many requests"),
        (422, b"Failed to deserialize the JSON body", "Failed to deserialize"),
        (500, b"null", "do not list"),
        (404, b"", ""),
    ],
)
def test_a_refusal_has_the_venues_text_and_a_remedy(make, status, body, text) -> None:
    reason = tapeloom_hyperliquid.history(make()).refusal_reason(status, body)

    assert text in reason
    assert "null" not in reason
