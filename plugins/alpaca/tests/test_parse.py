"""Items of every kind, and garbage between them, are parsed into events."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
import tapeloom_alpaca
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom.events import Bar, Book, Quote, Reject, Status, Trade
from tapeloom.plugin import Frames, HistoryQuery
from tapeloom_alpaca.times import format_time, parse_time

TRADE = (
    '{"T":"t","i":96921,"S":"AAPL","x":"D","p":126.550,"s":1,"t":"2021-02-22T15:51:44.208Z",'
    '"c":["@","I"],"z":"C"}'
)
QUOTE = (
    '{"T":"q","S":"AAPL","bx":"U","bp":87.66,"bs":1,"ax":"Q","ap":87.68,"as":4,'
    '"t":"2021-02-22T15:51:45.335689322Z","c":["R"],"z":"C"}'
)
BAR = (
    '{"T":"b","S":"AAPL","o":388.985,"h":389.13,"l":388.975,"c":389.12,"v":10,'
    '"t":"2021-02-22T19:15:00Z","n":461,"vw":389.5}'
)
COIN = (
    '{"T":"t","S":"BTC/USD","p":65614.929,"s":0.000038,"t":"2026-02-23T15:57:33.393Z",'
    '"i":8160237406270933078,"tks":"S"}'
)
WHOLE = (
    '{"T":"o","S":"BTC/USD","t":"2024-03-12T10:38:50.79613221Z","b":[{"p":71859.53,"s":0.27994}],'
    '"a":[{"p":71939.70,"s":0.83953}],"r":true}'
)
DELTA = '{"T":"o","S":"BTC/USD","t":"2024-03-12T10:38:51.2Z","b":[],"a":[{"p":71939.7,"s":0}]}'
DAILY, UPDATED = BAR.replace('"b"', '"d"', 1), BAR.replace('"b"', '"u"', 1)
STOCKS = ("trades", "quotes", "klines:1m", "klines:1d")
NOON = 1_614_009_104_000_000_000  # 2021-02-22 15:51:44


def parsed(feed, *frames: str | bytes, recv: int = 7) -> list[Any]:
    raw = [frame.encode() if isinstance(frame, str) else frame for frame in frames]
    return tapeloom_alpaca.parse(feed)(Frames(raw, recv))


def test_a_stock_trade_has_no_side_and_an_id_with_its_exchange(make) -> None:
    (trade,) = parsed(make(), f"[{TRADE}]")

    assert trade == Trade(
        "alpaca", "AAPL/USD", NOON + 208_000_000, 7, Decimal("126.55"), Decimal(1), None, "D:96921"
    )
    assert str(trade.price) == "126.550"


@pytest.mark.parametrize("frame", [f"[{TRADE}]", f"[{TRADE},{TRADE}]"])
def test_an_item_without_its_symbol_is_rejected_and_not_counted_as_unrequested(make, frame) -> None:
    feed = make()
    events = parsed(feed, frame.replace('"S":"AAPL",', ""))

    assert {type(event) for event in events} == {Reject}
    assert len(events) == frame.count("AAPL")
    assert not feed.counters["unrequested"]


@pytest.mark.parametrize(("taker", "side"), [("B", "buy"), ("S", "sell"), ("", None)])
def test_a_crypto_trade_has_the_takers_side_and_all_digits_of_its_id(make, taker, side) -> None:
    coins = make("crypto", ("BTC/USD",))
    text = COIN.replace('"tks":"S"', f'"tks":"{taker}"')
    (trade,) = parsed(coins, f"[{text}]")

    assert (trade.id, trade.side) == ("8160237406270933078", side)
    assert (str(trade.price), str(trade.size)) == ("65614.929", "0.000038")


def test_a_quote_is_the_best_bid_and_ask(make) -> None:
    (quote,) = parsed(make(channels=("quotes",)), f"[{QUOTE}]")
    figures = [Decimal(text) for text in ("87.66", "1", "87.68", "4")]

    assert quote == Quote("alpaca", "AAPL/USD", NOON + 1_335_689_322, 7, *figures)


def test_sizes_of_quotes_may_count_round_lots(make) -> None:
    (quote,) = parsed(make(channels=("quotes",), quote_unit=100), f"[{QUOTE}]")

    assert (quote.bid_size, quote.ask_size) == (100, 400)


def test_a_side_at_price_0_is_none(make) -> None:
    no_ask = QUOTE.replace('"ap":87.68,"as":4', '"ap":0,"as":0')
    no_bid = QUOTE.replace('"bp":87.66,"bs":1', '"bp":0,"bs":0')
    quotes = parsed(make(channels=("quotes",), quote_unit=100), f"[{no_ask},{no_bid}]")

    assert [(q.bid, q.bid_size, q.ask, q.ask_size) for q in quotes] == [
        (Decimal("87.66"), 100, None, None),
        (None, None, Decimal("87.68"), 400),
    ]


def test_a_minute_bar_is_closed(make) -> None:
    (bar,) = parsed(make(channels=STOCKS), f"[{BAR}]")
    prices = [Decimal(text) for text in ("388.985", "389.13", "388.975", "389.12")]

    assert bar == Bar(
        "alpaca", "AAPL/USD", 1_614_021_300_000_000_000, 7, "1m", *prices, Decimal(10),
        Decimal(3895), None, None, 461, True, True, 0, "klines:1m", "live",
    )  # fmt: skip
    assert bar.vwap == Decimal("389.5")


def test_missing_fields_of_a_bar_are_none(make) -> None:
    text = BAR.replace(',"n":461,"vw":389.5', "")
    (bar,) = parsed(make(channels=STOCKS), f"[{text}]")

    assert (bar.trades, bar.quote_volume, bar.vwap) == (None, None, None)


def test_an_updated_bar_is_a_revision(make) -> None:
    parse = tapeloom_alpaca.parse(make(channels=STOCKS))
    other = UPDATED.replace("19:15", "19:16")
    texts = [f"[{BAR}]", f"[{UPDATED},{other}]", f"[{UPDATED}]"]
    bars = [bar for text in texts for bar in parse(Frames([text.encode()]))]

    assert [bar.revision for bar in bars] == [0, 1, 1, 1]
    assert {bar.closed for bar in bars} == {True}


def test_a_daily_bar_is_never_closed(make) -> None:
    (bar,) = parsed(make(channels=STOCKS), f"[{DAILY}]")

    assert (bar.interval, bar.channel, bar.closed) == ("1d", "klines:1d", False)


def test_a_book_is_a_snapshot_and_then_deltas_without_ids(make) -> None:
    books = parsed(make("crypto", ("BTC/USD",), ("book",)), f"[{WHOLE}]", f"[{DELTA}]")

    assert [type(book) for book in books] == [Book, Book]
    assert [book.kind for book in books] == ["snapshot", "delta"]
    assert [(book.first_id, book.last_id, book.previous_id) for book in books] == [
        (None, None, None)
    ] * 2
    assert books[0].bids == [(Decimal("71859.53"), Decimal("0.27994"))]
    assert str(books[0].asks[0][0]) == "71939.70"
    assert books[1].asks == [(Decimal("71939.7"), Decimal(0))]


def test_a_book_is_requested_when_its_last_snapshot_is_too_old(make) -> None:
    feed = make("crypto", ("BTC/USD",), ("book",), book_resync="10s")
    wanted: list[HistoryQuery] = []
    feed.query_history = wanted.append
    parse = tapeloom_alpaca.parse(feed)
    for second, text in [
        (0, WHOLE),
        (9, DELTA),
        (10, DELTA),
        (11, DELTA),
        (12, WHOLE),
        (21, DELTA),
    ]:
        parse(Frames([f"[{text}]".encode()], second * 1_000_000_000))

    assert wanted == [HistoryQuery("book", "BTC/USD", "book")]


def test_corrections_and_cancels_are_statuses(make) -> None:
    correction = (
        '{"T":"c","S":"AAPL","x":"M","oi":52983525033527,"op":39.1582,"os":440000,"oc":[" "],'
        '"ci":52983525034326,"cp":39.1809,"cs":440000,"cc":[" "],"z":"B","t":"2021-02-22T15:51:44Z"}'
    )
    cancel = (
        '{"T":"x","S":"AAPL","i":465,"x":"D","p":105.31,"s":300,"a":"C","z":"C",'
        '"t":"2021-02-22T15:51:44Z"}'
    )
    events = parsed(make(), f"[{TRADE},{correction},{cancel}]")

    assert [type(event) for event in events] == [Trade, Status, Status]
    assert [(event.state, event.channel, event.symbol) for event in events[1:]] == [
        ("trade_corrected", "trades", "AAPL/USD"),
        ("trade_cancelled", "trades", "AAPL/USD"),
    ]
    assert events[1].detail == (
        "id=M:52983525033527 price=39.1582 size=440000"
        " is now id=M:52983525034326 price=39.1809 size=440000"
    )
    assert events[2].detail == "id=D:465 price=105.31 size=300 action=C"


def test_unrequested_data_is_counted(make) -> None:
    feed = make()
    events = parsed(feed, f"[{TRADE},{TRADE.replace('AAPL', 'MSFT')},{QUOTE}]")

    assert [type(event) for event in events] == [Trade]
    assert feed.counters["unrequested"] == 2


@pytest.mark.parametrize(
    "bad",
    [
        '{"T":"z","S":"AAPL"}',
        '{"T":"t","S":"AAPL","t":"2021-02-22T15:51:44Z"}',
        TRADE.replace("126.550", '"much"'),
        TRADE.replace("2021-02-22T15:51:44.208Z", "yesterday"),
        "17",
    ],
)
def test_a_bad_item_does_not_affect_others_in_its_frame(make, bad) -> None:
    events = parsed(make(), f"[{TRADE},{bad},{TRADE}]")

    assert [type(event) for event in events] == [Trade, Reject, Trade]
    assert events[1].rule == "unreadable_frame"


@pytest.mark.parametrize(
    "item", [b"1", b"{}", b'{"T":"t","t":"2021-02-22T15:51:44Z"}', b'{"T":"error"}']
)
def test_many_items_that_cannot_be_parsed_are_passed_on_together(make, item) -> None:
    seen: list[bytes] = []

    def on_control(frame: bytes) -> list[Any]:
        seen.append(frame)
        return [Reject("alpaca", "", 7, 7, "on_control", "")]

    frame = b"[" + item + b"," + b",".join([item] * 10_000) + b"]"
    tapeloom_alpaca.parse(make())(Frames([frame], 7, on_control))

    assert len(seen) == 101
    assert seen[-1].startswith(b"the rest of a frame with 100 such items: [")


def test_control_messages_are_passed_on_one_by_one(make) -> None:
    on_control: list[bytes] = []
    said = ['{"T":"success","msg":"connected"}', '{"T":"error","code":406}']
    frames = Frames(
        [f"[{said[0]},{TRADE},{said[1]}]".encode()], 7, lambda f: on_control.append(f) or []
    )
    events = tapeloom_alpaca.parse(make())(frames)

    assert [type(event) for event in events] == [Trade]
    assert on_control == [f"[{text}]".encode() for text in said]


GOOD = [f"[{TRADE}]", f"[{QUOTE},{BAR}]", f"[{UPDATED},{TRADE},{DAILY}]", f"[{UPDATED}]"]
BAD = ["", "[]", "{}", "[", "null", "upstream connect error", f"[{TRADE}", '[{"T":"t"}]', "[[]]"]


@settings(max_examples=80, deadline=None)
@given(
    texts=st.lists(st.one_of(st.sampled_from(GOOD), st.sampled_from(BAD)), max_size=12),
    noise=st.binary(max_size=20),
    cuts=st.lists(st.integers(0, 12), max_size=4),
)
def test_neither_garbage_nor_batching_changes_the_valid_events(make, texts, noise, cuts) -> None:
    good = [text for text in texts if text in GOOD]
    clean = parsed(make(channels=STOCKS), *good)
    parse = tapeloom_alpaca.parse(make(channels=STOCKS))
    raw = [text.encode() for text in texts] + [b"\xff" + noise]
    edges = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    events = [event for start, end in pairwise(edges) for event in parse(Frames(raw[start:end], 7))]

    assert [event for event in events if type(event) is not Reject] == clean
    assert len(events) - len(clean) == len(raw) - len(good)


# -------------------------------------------------------------------------------------------- time


@settings(max_examples=150, deadline=None)
@given(
    moment=st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)),  # noqa: DTZ001
    digits=st.text("0123456789", max_size=9),
    hours=st.integers(-12, 12),
)
def test_a_time_is_exact_with_any_number_of_digits(moment, digits, hours) -> None:
    second = moment.replace(microsecond=0)
    part = f".{digits}" if digits else ""
    whole = int(second.replace(tzinfo=UTC).timestamp()) * 1_000_000_000
    expected = whole + int(digits.ljust(9, "0") or 0)
    local = second + timedelta(hours=hours)

    assert parse_time(f"{second:%Y-%m-%dT%H:%M:%S}{part}Z") == expected
    assert parse_time(f"{local:%Y-%m-%dT%H:%M:%S}{part}{hours:+03d}:00") == expected
    assert parse_time(format_time(expected)) == expected


@settings(max_examples=100, deadline=None)
@given(text=st.text("0123456789-:.TZ+_ ", max_size=32))
def test_an_invalid_time_is_a_value_error(text) -> None:
    try:
        parse_time(text)
    except ValueError:
        return

    assert text[4] == "-" or text[:8].isdigit()


def test_json_of_the_samples_is_json() -> None:
    for text in (TRADE, QUOTE, BAR, COIN, WHOLE, DELTA, DAILY, UPDATED):
        assert json.loads(text)
