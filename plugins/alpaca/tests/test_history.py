"""REST: requests, and the parsing of answers."""

from __future__ import annotations

from decimal import Decimal
from urllib.parse import parse_qs, urlsplit

import pytest
import tapeloom_alpaca
from tapeloom.errors import RequestRefused
from tapeloom.events import Bar, Book, Reject, Trade
from tapeloom.plugin import HistoryQuery, Request
from tapeloom_alpaca.history import timeframe

NOW = 1_800_000_000_000_000_000


def asked(request: Request) -> tuple[str, dict[str, str]]:
    parts = urlsplit(request.url)
    return f"{parts.netloc}{parts.path}", {
        key: value for key, (value,) in parse_qs(parts.query).items()
    }


def test_trades_between_two_times_are_requested_in_order(make) -> None:
    history = tapeloom_alpaca.history(make(feed="sip"))
    request = history.request(HistoryQuery("trades", "AAPL/USD", "trades", since=1, until=NOW + 5))

    assert asked(request) == (
        "data.alpaca.markets/v2/stocks/trades",
        {
            "symbols": "AAPL", "start": "1970-01-01T00:00:00.000000001Z",
            "end": "2027-01-15T08:00:00.000000005Z", "limit": "10000", "sort": "asc", "feed": "sip",
        },
    )  # fmt: skip
    assert request.headers == {
        "APCA-API-KEY-ID": "PKNOTAKEY",
        "APCA-API-SECRET-KEY": "not-a-secret-either",
    }
    assert (request.rate.count, request.rate.seconds) == (100, 60.0)
    assert request.paged


def test_the_end_of_bars_is_not_included(make) -> None:
    history = tapeloom_alpaca.history(make("crypto", ("BTC/USD",)))
    request = history.request(
        HistoryQuery("bars", "BTC/USD", interval="1h", since=NOW, until=NOW + 1)
    )
    path, query = asked(request)

    assert path == "data.alpaca.markets/v1beta3/crypto/us/bars"
    assert query["symbols"] == "BTC/USD"
    assert query["timeframe"] == "1Hour"
    assert query["start"] == query["end"]
    assert "feed" not in query


@pytest.mark.parametrize(
    ("interval", "word"),
    [
        ("1m", "1Min"), ("59m", "59Min"), ("60m", None), ("4h", "4Hour"), ("1d", "1Day"),
        ("2d", None), ("1w", "1Week"), ("3M", "3Month"), ("5M", None), ("1s", None), ("", None),
    ],
)  # fmt: skip
def test_an_interval_is_converted_to_a_timeframe_or_none(interval, word) -> None:
    assert timeframe(interval) == word


def test_there_is_a_book_request_only_in_poll_mode(make) -> None:
    want = HistoryQuery("book", "BTC/USD", "book")
    polled = make("crypto", ("BTC/USD",), ("book",), mode="poll")
    stocks = make(mode="poll")

    assert tapeloom_alpaca.history(make("crypto", ("BTC/USD",), ("book",))).request(want) is None
    assert tapeloom_alpaca.history(stocks).request(HistoryQuery("book", "AAPL/USD")) is None
    assert asked(tapeloom_alpaca.history(polled).request(want)) == (
        "data.alpaca.markets/v1beta3/crypto/us/latest/orderbooks",
        {"symbols": "BTC/USD"},
    )


def test_there_is_no_request_for_trades_by_id(make) -> None:
    history = tapeloom_alpaca.history(make())

    assert history.request(HistoryQuery("trades", "AAPL/USD", after_id="D:5")) is None
    assert not history.request(HistoryQuery("trades", "AAPL/USD")).paged


def test_the_test_feed_has_no_history(make) -> None:
    feed = make(symbols=("FAKEPACA/USD",), feed="test")
    want = HistoryQuery("trades", "FAKEPACA/USD", since=1)

    assert tapeloom_alpaca.history(feed).request(want) is None


@pytest.mark.parametrize(
    ("settings_", "host"),
    [
        ({}, "api.alpaca.markets"),
        ({"paper": True}, "paper-api.alpaca.markets"),
        ({"trading_url": "https://x.example/"}, "x.example"),
        ({"base_url": "ws://127.0.0.1:1"}, "127.0.0.1:1"),
    ],
)
def test_the_listing_is_on_the_trading_host(make, settings_, host) -> None:
    assert asked(tapeloom_alpaca.history(make(**settings_)).listing_request()) == (
        f"{host}/v2/assets",
        {"status": "active", "asset_class": "us_equity"},
    )


@pytest.mark.parametrize("settings_", [{"feed": "test"}, {"sandbox": True}])
def test_a_feed_without_a_listing_has_no_listing_request(make, settings_) -> None:
    assert tapeloom_alpaca.history(make(**settings_)).listing_request() is None


def test_assets_are_instruments(make) -> None:
    body = (
        b'[{"id":"1","class":"us_equity","exchange":"NASDAQ","symbol":"AAPL","status":"active",'
        b'"tradable":true},{"class":"us_equity","symbol":"A B","status":"active"},'
        b'{"class":"crypto","symbol":"BTC/USD","status":"inactive","tradable":false,'
        b'"price_increment":"0.01","min_trade_increment":"0.000000001"}]'
    )
    stock, coin = tapeloom_alpaca.history(make()).read_listing(body)

    assert (stock.symbol, stock.native, stock.base, stock.quote, stock.tick) == (
        "AAPL/USD", "AAPL", "AAPL", "USD", None,
    )  # fmt: skip
    assert (coin.symbol, coin.native, coin.active) == ("BTC/USD", "BTC/USD", False)
    assert (str(coin.tick), str(coin.lot)) == ("0.01", "1E-9")


def answers(make, path: str, body: bytes, recv: int = NOW, **feed) -> list:
    history = tapeloom_alpaca.history(make(**feed))
    return history.read_answer(Request(url=f"https://any.example{path}"), body, recv)


def test_past_trades_are_backfill_and_withdrawn_ones_rejected(make) -> None:
    body = (
        b'{"trades":{"AAPL":['
        b'{"t":"2022-10-21T20:19:03.7Z","x":"D","p":129.88,"s":5,"i":71697353758036},'
        b'{"t":"2022-10-21T20:19:03.8Z","x":"D","p":129.88,"s":5,"i":2,"u":"canceled"},'
        b'{"t":"2022-10-21T20:19:03.9Z","x":"D","p":129.88,"s":5,"i":3,"u":"corrected"}],'
        b'"TSLA":[{"t":"2022-10-21T20:19:03.7Z","x":"D","p":1,"s":5,"i":4}]},'
        b'"next_page_token":null}'
    )
    events = answers(make, "/v2/stocks/trades?symbols=AAPL", body)

    assert [type(event) for event in events] == [Trade, Reject, Trade]
    assert (events[0].id, events[0].origin) == ("D:71697353758036", "backfill")
    assert (events[1].rule, events[1].evidence, events[1].event.id) == (
        "trade_void",
        "canceled",
        "D:2",
    )


def test_the_last_past_bar_may_still_be_open(make) -> None:
    body = b'{"bars":{"AAPL":[%s]},"next_page_token":null}' % b",".join(
        b'{"t":"2027-01-15T0%d:00:00Z","o":1,"h":2,"l":0.50,"c":1.5,"v":10,"n":3,"vw":1.2}' % hour
        for hour in (6, 7, 8)
    )
    bars = answers(make, "/v2/stocks/bars?timeframe=1Hour", body, NOW + 1)

    assert [type(bar) for bar in bars] == [Bar] * 3
    assert [bar.closed for bar in bars] == [True, True, False]
    assert [(bar.interval, bar.channel) for bar in bars] == [("1h", "klines:1h")] * 3
    assert str(bars[0].low) == "0.50"


def test_a_latest_book_is_a_snapshot_with_origin_history(make) -> None:
    body = (
        b'{"orderbooks":{"BTC/USD":{"a":[{"p":27539.494,"s":0.2632414}],'
        b'"b":[{"p":27511.78083,"s":0.26265668}],"t":"2023-03-18T13:31:44.932988033Z"}}}'
    )
    (book,) = answers(
        make, "/v1beta3/crypto/us/latest/orderbooks", body, market="crypto", symbols=("BTC/USD",)
    )

    assert isinstance(book, Book)
    assert (book.kind, book.origin, book.channel) == ("snapshot", "history", "book")
    assert book.asks == [(Decimal("27539.494"), Decimal("0.2632414"))]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"trades":7}', b'{"trades":{"AAPL":[{}]}}'])
def test_an_unreadable_answer_is_a_value_error(make, body) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        answers(make, "/v2/stocks/trades", body)


def test_answers_of_other_addresses_give_no_events(make) -> None:
    for path in ("/v1beta3/crypto/us/trades", "/v2/stocks/auctions", "/v2/assets", "/"):
        assert answers(make, path, b"{}") == []


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (
            403,
            b'{"message":"subscription does not permit querying recent SIP data"}',
            (
                "subscription does not permit querying recent SIP data."
                ' Check the keys; or the plan does not include this: set feed = "iex".'
            ),
        ),
        (401, b"<html>", "Check key_id and secret_key."),
        (422, b'{"code":42210000,"message":"invalid start."}', "invalid start."),
        (500, b"", ""),
    ],
)
def test_a_refusal_has_the_venues_text_and_a_remedy(make, status, body, words) -> None:
    reason = tapeloom_alpaca.history(make()).refusal_reason(status, body)

    assert str(reason) == words
    assert isinstance(reason, RequestRefused) == (status == 403)  # that is about keys and plans


def test_an_empty_page_with_a_next_token_is_an_error(make) -> None:
    history = tapeloom_alpaca.history(make("crypto", ("BTC/USD",)))
    request = history.request(HistoryQuery("trades", "BTC/USD", "trades", since=1, until=NOW))

    assert history.read_answer(request, b'{"trades":{},"next_page_token":null}', NOW) == []
    with pytest.raises(RequestRefused, match="token of a next page") as denied:
        history.read_answer(request, b'{"trades":{},"next_page_token":"AAAA"}', NOW)
    assert denied.value.retry_after_seconds is not None
