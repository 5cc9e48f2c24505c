"""REST requests, and the events read from the answers."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import attrs
import pytest
import tapeloom_bybit
from tapeloom.errors import RequestRefused
from tapeloom.events import Bar, Trade
from tapeloom.plugin import HistoryQuery, Request
from tapeloom.symbols import Instrument
from tapeloom.units import Rate

PERP = "BTC/USDT:USDT"
SECOND = 1_000_000_000
SPOT = "https://api.bybit.com/v5/market"


def request_parts(request: Request) -> tuple[str, dict[str, str]]:
    parts = urlsplit(request.url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}", dict(parse_qsl(parts.query))


def body(result: Any, code: int = 0, message: str = "OK", time: int = 0) -> bytes:
    envelope = {
        "retCode": code,
        "retMsg": message,
        "result": result,
        "retExtInfo": {},
        "time": time,
    }
    return json.dumps(envelope).encode()


def history(make, market: str = "spot", *channels: str, **settings: Any) -> Any:
    return tapeloom_bybit.history(make(market, *channels, **settings))


def test_the_listing_is_one_request(make) -> None:
    assert request_parts(history(make).listing_request()) == (
        f"{SPOT}/instruments-info",
        {"category": "spot"},
    )
    assert request_parts(history(make, "linear").listing_request())[1] == {
        "category": "linear",
        "limit": "1000",
    }
    assert history(make).listing_request().rate == Rate(600, 5.0)


@pytest.mark.parametrize(("market", "limit"), [("spot", "60"), ("linear", "1000")])
def test_the_maximal_number_of_trades_is_requested(make, market, limit) -> None:
    symbol = PERP if market == "linear" else "BTC/USDT"
    path, params = request_parts(
        history(make, market).request(HistoryQuery("trades", symbol, "trades"))
    )

    assert path == f"{SPOT}/recent-trade"
    assert params == {"category": market, "symbol": "BTCUSDT", "limit": limit}


def test_bars_are_requested_without_the_end_of_the_time_span(make) -> None:
    query = HistoryQuery("bars", "BTC/USDT", "klines:1h", since=3600 * SECOND, until=7200 * SECOND)
    path, params = request_parts(history(make).request(query))

    assert path == f"{SPOT}/kline"
    assert (params["interval"], params["start"], params["end"]) == ("60", "3600000", "7199999")
    assert history(make).request(HistoryQuery("bars", "BTC/USDT", interval="7m")) is None


def test_a_book_is_requested_only_with_resync_rest_and_1000_levels(make) -> None:
    default, rest = history(make, "spot", "book"), history(make, "spot", "book", resync="rest")
    path, params = request_parts(rest.request(HistoryQuery("book", "BTC/USDT", "book")))

    assert default.request(HistoryQuery("book", "BTC/USDT", "book")) is None
    assert path == f"{SPOT}/orderbook"
    assert params == {"category": "spot", "symbol": "BTCUSDT", "limit": "1000"}
    assert rest.request(HistoryQuery("book", "BTC/USDT", "book:50")) is None


ORDERS = {
    "s": "BTCUSDT", "a": [["65557.7", "16.606555"]], "b": [["65485.47", "47.081829"]],
    "ts": 1716863719031, "u": 230704, "seq": 1432604333, "cts": 1716863718905,
}  # fmt: skip


def test_a_book_is_a_snapshot_of_the_channel_that_has_its_depth(make) -> None:
    request = Request(url=f"{SPOT}/orderbook?category=spot&symbol=BTCUSDT&limit=1000")
    (book,) = history(make, "spot", "book").read_answer(request, body(ORDERS), 9)

    assert (book.kind, book.origin, book.channel, book.depth) == (
        "snapshot",
        "history",
        "book",
        1000,
    )
    assert (book.first_id, book.last_id, book.previous_id) == (None, 230704, None)
    assert book.ts == 1716863718905 * 10**6
    assert history(make, "spot", "book:50").read_answer(request, body(ORDERS), 9) == []


def row(number: int, side: str = "Buy", block: bool = False) -> dict[str, Any]:
    return {
        "execId": str(number), "symbol": "BTCUSDT", "price": "16618.49", "size": "0.00012",
        "side": side, "time": "1672052955758", "isBlockTrade": block, "seq": "123456",
    }  # fmt: skip


def test_trades_come_oldest_first(make) -> None:
    request = history(make).request(HistoryQuery("trades", "BTC/USDT"))
    answer = body({"category": "spot", "list": [row(3, "Sell"), row(2, block=True), row(1)]})
    events = history(make).read_answer(request, answer, 9)
    others = history(make, block_trades=False).read_answer(request, answer, 9)

    assert events[0] == Trade(
        "bybit", "BTC/USDT", 1672052955758 * 10**6, 9, Decimal("16618.49"), Decimal("0.00012"),
        "buy", "1", "trades", "backfill",
    )  # fmt: skip
    assert [(t.id, t.side) for t in events] == [("1", "buy"), ("2", "buy"), ("3", "sell")]
    assert [t.id for t in others] == ["1", "3"]


@pytest.mark.parametrize(("now", "closed"), [(7_199_999, False), (7_200_000, True)])
def test_bars_come_oldest_first_and_the_newest_is_closed_once_it_has_ended(
    make, now, closed
) -> None:
    rows = [
        ["3600000", "17071", "17073", "17027", "17055.5", "268611", "15.74462667"],
        ["0", "17071.5", "17071.5", "17061", "17071", "4177", "0.24469757"],
    ]
    request = history(make).request(HistoryQuery("bars", "BTC/USDT", interval="1h"))
    first, last = history(make).read_answer(request, body({"list": rows}, time=now), 9)

    assert last == Bar(
        "bybit", "BTC/USDT", 3600 * SECOND, 9, "1h", *map(Decimal, rows[0][1:]), None, None, None,
        closed, True, 0, "klines:1h", "backfill",
    )  # fmt: skip
    assert (first.ts, first.closed) == (0, True)


@pytest.mark.parametrize(
    "url",
    [
        f"{SPOT}/kline?category=linear&symbol=BTCUSDT&interval=1",
        f"{SPOT}/kline?category=spot&symbol=ETHUSDT&interval=1",
        f"{SPOT}/kline?category=spot&symbol=BTCUSDT&interval=7",
        f"{SPOT}/tickers?category=spot&symbol=BTCUSDT",
        "https://api.bybit.com/",
    ],
)
def test_the_answer_of_an_unknown_url_gives_no_events(make, url) -> None:
    assert history(make).read_answer(Request(url=url), body({"list": []}), 9) == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (body({}, 10001, "symbol invalid"), r"symbol invalid \(code 10001\)"),
        (body({}, 10006, "Too many visits"), "send requests less often"),
        (b"<html>", "expected an answer of API v5.*<html>"),
        (body({"list": [["x"]]}), "Expected|Object missing"),
        (body(None), "Expected `object`"),
        (b'{"retCode":0,"result":' + b"[" * 100_000, "expected an answer"),
    ],
)
def test_error_codes_and_garbage_raise_an_error_with_the_reason(make, answer, expected) -> None:
    bybit_history = history(make)
    with pytest.raises(ValueError, match=expected):
        bybit_history.read_answer(
            bybit_history.request(HistoryQuery("bars", "BTC/USDT", interval="1m")), answer, 9
        )
    with pytest.raises(ValueError):
        bybit_history.read_listing(answer)


BLOCKED = (
    b"<HTML><HEAD><TITLE>ERROR: The request could not be satisfied</TITLE></HEAD><BODY>\n<H1>403"
    b" ERROR</H1>\nThe Amazon CloudFront distribution is configured to block access from your"
    b" country.\n</BODY></HTML>"
)


@pytest.mark.parametrize(
    ("status", "answer", "expected", "retry_after"),
    [
        (403, b"", "again after 10 minutes", 600),
        (403, body({}, 403, "access too frequent"), "access too frequent (code 403)", 600),
        (429, b"[", "send requests less often", 5),
        (500, b"", "", 1),
        (404, body({}, 10024, "no"), "does not serve the region", None),
        (403, BLOCKED, "block access from your country. The venue does not serve", None),
    ],
)
def test_a_refusal_has_a_reason_and_the_seconds_until_a_retry(
    make, status, answer, expected, retry_after
) -> None:
    refusal = history(make).refusal_reason(status, answer)

    assert expected in refusal.reason
    assert refusal.retry_after_seconds == retry_after


@pytest.mark.parametrize(("code", "temporary"), [(10006, True), (10016, True), (10001, False)])
def test_a_refusal_with_the_status_200_is_temporary_or_permanent(make, code, temporary) -> None:
    bybit_history = history(make)
    with pytest.raises(RequestRefused) as refused:
        bybit_history.read_answer(
            bybit_history.request(HistoryQuery("bars", "BTC/USDT", interval="1m")),
            body({}, code, "no"),
            9,
        )

    assert (refused.value.retry_after_seconds is not None) == temporary


def test_bars_of_a_long_time_span_are_requested_from_its_start(make) -> None:
    day = 86_400 * SECOND
    query = HistoryQuery("bars", "BTC/USDT", interval="1m", since=day, until=3 * day)
    request = history(make).request(query)
    short = history(make).request(attrs.evolve(query, until=day + 3600 * SECOND))

    assert (request.paged, request.page_end) == (True, day + 1000 * 60 * SECOND)
    assert (short.paged, short.page_end) == (True, None)


LINEAR = {
    "symbol": "BTCUSDT", "contractType": "LinearPerpetual", "status": "Trading",
    "baseCoin": "BTC", "quoteCoin": "USDT", "deliveryTime": "0", "settleCoin": "USDT",
    "priceFilter": {"tickSize": "0.10"}, "lotSizeFilter": {"qtyStep": "0.001"},
}  # fmt: skip


def test_listed_symbols_have_unified_names_and_steps(make) -> None:
    coin = {
        "symbol": "BTCUSDT", "baseCoin": "BTC", "quoteCoin": "USDT", "status": "Trading",
        "lotSizeFilter": {"basePrecision": "0.000001"}, "priceFilter": {"tickSize": "0.1"},
    }  # fmt: skip
    dollar = LINEAR | {"symbol": "BTCPERP", "quoteCoin": "USDC", "settleCoin": "USDC"}
    leaving = LINEAR | {"symbol": "OLDUSDT", "baseCoin": "OLD", "deliveryTime": "1702592000000"}
    dated = dollar | {
        "symbol": "BTC-26DEC25", "contractType": "LinearFutures", "status": "Closed",
        "deliveryTime": "1766736000000",
    }  # fmt: skip
    (spot,) = history(make).read_listing(body({"list": [coin]}))
    perp, *others = history(make, "linear").read_listing(
        body({"list": [LINEAR, dollar, leaving, dated], "nextPageCursor": "x"})
    )

    assert spot == Instrument(
        "BTC/USDT", "BTCUSDT", "spot", "BTC", "USDT", "", Decimal("0.1"), Decimal("0.000001")
    )
    assert perp == Instrument(
        PERP, "BTCUSDT", "swap", "BTC", "USDT", "USDT", Decimal("0.10"), Decimal("0.001")
    )
    assert [(other.symbol, other.kind, other.active) for other in others] == [
        ("BTC/USDC:USDC", "swap", True),
        ("OLD/USDT:USDT", "swap", True),
        ("BTC/USDC:USDC-251226", "future", False),
    ]


def test_a_truncated_listing_is_an_error(make) -> None:
    rows = body({"list": [LINEAR] * 1000, "nextPageCursor": "first%3D1"})

    with pytest.raises(ValueError, match="more than the 1000 symbols"):
        history(make, "linear").read_listing(rows)
