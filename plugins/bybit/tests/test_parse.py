"""Frames become events: each kind, in every form, with whatever stands between them."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
import tapeloom_bybit
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom.events import Bar, Quote, Reject, Ticker, Trade
from tapeloom.plugin import Frames, TradeBatch

PERP = "BTC/USDT:USDT"
FILL = {
    "T": 8, "s": "BTCUSDT", "S": "Buy", "v": "0.001", "p": "16578.50", "L": "PlusTick",
    "i": "20f43950-d8dd-5b31-9112-a178eb6023af", "BT": False, "RPI": False, "seq": 1783284617,
}  # fmt: skip
DEPTH = {"s": "BTCUSDT", "b": [["16493.50", "0.006"]], "a": [["16611.00", "0.0"]], "u": 5, "seq": 9}
CANDLE = {
    "start": 60_000, "end": 119_999, "interval": "1", "open": "16649.5", "close": "16677",
    "high": "16680", "low": "16608", "volume": "2.081", "turnover": "34666.4005",
    "confirm": False, "timestamp": 61_000,
}  # fmt: skip
DAY = {
    "symbol": "BTCUSDT", "lastPrice": "4.0", "prevPrice24h": "3.5", "highPrice24h": "6",
    "lowPrice24h": "3", "volume24h": "77", "turnover24h": "300", "price24hPcnt": "0.1",
}  # fmt: skip


def push(topic: str, data: Any, type: str = "snapshot", ts: int = 9, **more: Any) -> bytes:
    whole = {"topic": topic, "type": type, "ts": ts, "data": data, **more}
    return json.dumps(whole, separators=(",", ":")).encode()


def parsed(feed: Any, *frames: bytes, recv: int = 7) -> list[Any]:
    return tapeloom_bybit.parse(feed)(Frames(frames, recv))


def depth(**other: Any) -> dict[str, Any]:
    return DEPTH | other


def test_the_side_of_a_trade_is_the_takers_and_its_id_a_text(make) -> None:
    (trade, other) = parsed(make(), push("publicTrade.BTCUSDT", [FILL, FILL | {"S": "Sell"}]))

    assert trade == Trade(
        "bybit", "BTC/USDT", 8_000_000, 7, Decimal("16578.50"), Decimal("0.001"), "buy",
        "20f43950-d8dd-5b31-9112-a178eb6023af", "trades",
    )  # fmt: skip
    assert (str(trade.price), other.side) == ("16578.50", "sell")


def test_every_trade_of_a_full_push_is_delivered_in_its_order(make) -> None:
    fills = [FILL | {"i": str(n), "T": n} for n in range(1024)]
    events = parsed(make("linear"), push("publicTrade.BTCUSDT", fills))

    assert [(trade.id, trade.ts) for trade in events] == [(str(n), n * 10**6) for n in range(1024)]


def test_a_batch_of_trades_alone_says_so_and_names_its_lines(make) -> None:
    feed = make("spot", "trades", "quotes", symbols=("BTC/USDT", "ETH/USDT"))
    parse = tapeloom_bybit.parse(feed)
    btc, eth = (push(f"publicTrade.{name}USDT", [FILL, FILL]) for name in ("BTC", "ETH"))
    alone, again = (parse(Frames([btc, eth], 7)) for _ in range(2))
    mixed = parse(Frames([btc, push("orderbook.1.BTCUSDT", DEPTH)], 7))

    assert isinstance(alone, TradeBatch)
    assert alone.subscription_ids == again.subscription_ids
    assert len({*zip([t.symbol for t in alone], alone.subscription_ids, strict=True)}) == 2
    assert not isinstance(mixed, TradeBatch)


@pytest.mark.parametrize(("kept", "wanted"), [(True, Trade), (False, Reject)])
def test_a_block_trade_is_a_trade_unless_it_is_refused(make, kept, wanted) -> None:
    feed = make(block_trades=kept)
    events = parsed(feed, push("publicTrade.BTCUSDT", [FILL, FILL | {"BT": True, "i": "b"}]))

    assert [type(event) for event in events] == [Trade, wanted]
    assert kept or (events[1].rule, events[1].event.id) == ("block_trade", "b")


def test_the_first_level_is_a_quote_at_the_time_of_the_engine(make) -> None:
    (quote,) = parsed(make("linear", "quotes"), push("orderbook.1.BTCUSDT", DEPTH, cts=8))

    levels = ("16493.50", "0.006", "16611.00", "0.0")
    assert quote == Quote("bybit", PERP, 8_000_000, 7, *map(Decimal, levels), 9, "quotes")


def test_a_quote_that_is_said_again_stood_until_then_and_is_counted(make) -> None:
    feed = make("spot", "quotes")
    numbers = (5, 5, 6, 6, 1, 2)
    pushes = [
        push("orderbook.1.BTCUSDT", depth(u=u), ts=10 + n, cts=8) for n, u in enumerate(numbers)
    ]

    assert [quote.ts // 10**6 for quote in parsed(feed, *pushes)] == [8, 11, 8, 13, 8, 8]
    assert feed.counters["repeats"] == 2


def test_half_a_quote_is_a_reject(make) -> None:
    feed = make("spot", "quotes")
    halves = [
        push("orderbook.1.BTCUSDT", depth(b=[])),
        push("orderbook.1.BTCUSDT", depth(u=6), "delta"),
        push("orderbook.1.BTCUSDT", depth(a=[], u=7)),
    ]

    assert [event.rule for event in parsed(feed, *halves)] == ["half_quote"] * 3


def test_a_book_is_a_snapshot_and_then_what_has_changed(make) -> None:
    feed = make("spot", "book:50")
    whole = push("orderbook.50.BTCUSDT", DEPTH, cts=8)
    first, delta = parsed(feed, whole, push("orderbook.50.BTCUSDT", depth(u=6), "delta", cts=8))

    assert (first.kind, first.first_id, first.last_id, first.previous_id) == (
        "snapshot",
        None,
        5,
        None,
    )
    assert (delta.kind, delta.first_id, delta.last_id, delta.previous_id) == ("delta", 6, 6, None)
    assert (delta.ts, delta.depth, delta.channel) == (8_000_000, 50, "book:50")
    assert [[*level] for level in delta.raw_bids] == DEPTH["b"]
    assert delta.asks == [(Decimal("16611.00"), Decimal("0.0"))]


def test_an_update_with_the_number_one_is_the_whole_book(make) -> None:
    (book,) = parsed(make("spot", "book"), push("orderbook.1000.BTCUSDT", depth(u=1), "delta"))

    assert (book.kind, book.last_id, book.channel) == ("snapshot", 1, "book")


def test_where_the_numbers_may_jump_they_are_not_checked(make) -> None:
    feed = make("spot", "book:50", "book:200", unchecked=[200])
    events = parsed(feed, *(push(f"orderbook.{n}.BTCUSDT", DEPTH, "delta") for n in (50, 200)))

    assert [(book.first_id, book.last_id) for book in events] == [(5, 5), (None, 5)]


@pytest.mark.parametrize("levels", [50, 200, 1000])
def test_the_book_is_the_depth_that_is_set(make, levels) -> None:
    feed = make("linear", "book", "book:1", book_depth=levels)
    frames = [push(f"orderbook.{n}.BTCUSDT", DEPTH) for n in (1, 50, 200, 1000)]

    assert [(book.channel, book.depth) for book in parsed(feed, *frames)] == [
        ("book:1", 1),
        ("book", levels),
    ]
    assert feed.counters["unrequested"] == 2


def test_a_kline_is_closed_where_the_venue_confirms_it_and_a_push_may_have_two(make) -> None:
    closed = CANDLE | {"start": 0, "confirm": True}
    done, live = parsed(make("spot", "klines:1m"), push("kline.1.BTCUSDT", [closed, CANDLE]))

    prices = [Decimal(CANDLE[key]) for key in ("open", "high", "low", "close")]
    assert live == Bar(
        "bybit", "BTC/USDT", 60_000_000_000, 7, "1m", *prices, Decimal("2.081"),
        Decimal("34666.4005"), None, None, None, False, True, 0, "klines:1m", "live",
    )  # fmt: skip
    assert (done.ts, done.closed) == (0, True)


def test_a_month_is_no_minute(make) -> None:
    feed = make("spot", "klines:1m", "klines:1M", "klines:4h")
    bars = parsed(feed, *(push(f"kline.{word}.BTCUSDT", [CANDLE]) for word in ("M", "240", "1")))

    assert [bar.interval for bar in bars] == ["1M", "4h", "1m"]


def test_what_a_ticker_leaves_out_is_as_it_was(make) -> None:
    feed = make("linear", "ticker", symbols=(PERP, "ETH/USDT:USDT"))
    frames = [
        push("tickers.BTCUSDT", {"symbol": "BTCUSDT", "lastPrice": "9"}, "delta"),
        push("tickers.BTCUSDT", DAY),
        push("tickers.ETHUSDT", DAY | {"lastPrice": "50"}),
        push("tickers.BTCUSDT", {"symbol": "BTCUSDT", "bid1Price": "4"}, "delta"),
        push("tickers.BTCUSDT", {"symbol": "BTCUSDT", "lastPrice": "5.50"}, "delta", 10),
        push("tickers.BTCUSDT", {"symbol": "BTCUSDT", "volume24h": "78"}, "delta", 11),
    ]
    early, whole, _, same, *changed = events = parsed(feed, *frames)
    figures = [Decimal(n) for n in ("4.0", "3.5", "6", "3", "77", "300")]

    assert (type(early), early.rule) == (Reject, "half_ticker")
    assert whole == same == Ticker("bybit", PERP, 9_000_000, 7, *figures, None, "ticker")
    assert [(str(t.last), t.volume, t.open) for t in changed] == [
        ("5.50", 77, Decimal("3.5")),
        ("5.50", 78, Decimal("3.5")),
    ]
    assert events[2].last == 50


def test_a_ticker_begins_anew_with_each_whole_one(make) -> None:
    half = {key: DAY[key] for key in ("symbol", "lastPrice")}
    _, event = parsed(
        make("linear", "ticker"), push("tickers.BTCUSDT", DAY), push("tickers.BTCUSDT", half)
    )

    assert (type(event), event.rule) == (Reject, "half_ticker")


def test_what_nobody_asked_for_is_counted(make) -> None:
    feed = make()
    frames = [
        push("publicTrade.ETHUSDT", [FILL]),
        push("orderbook.1.BTCUSDT", DEPTH),
        push("orderbook.rpi.BTCUSDT", depth(b=[["1", "2", "3"]])),
        push("allLiquidation.BTCUSDT", [{"T": 1}]),
        push("system.status", [{"id": "1"}]),
    ]

    assert parsed(feed, *frames) == []
    assert feed.counters["unrequested"] == 5


def test_a_symbol_that_is_added_later_is_heard(make) -> None:
    feed = make()
    parse = tapeloom_bybit.parse(feed)
    frame = push("publicTrade.ETHUSDT", [FILL])
    before = parse(Frames([frame]))
    feed.listing.add("ETH/USDT", "ETHUSDT")

    assert before == []
    assert [trade.symbol for trade in parse(Frames([frame]))] == ["ETH/USDT"]


def test_one_text_names_two_symbols_in_two_markets(make) -> None:
    frame = push("publicTrade.BTCUSDT", [FILL])

    assert [parsed(make(market), frame)[0].symbol for market in ("spot", "linear")] == [
        "BTC/USDT",
        PERP,
    ]


BAD = [
    b'{"success":true,"ret_msg":"subscribe","conn_id":"c","req_id":"1-1","op":"subscribe"}',
    b'{"success":true,"ret_msg":"pong","conn_id":"c","op":"ping"}',
    push("publicTrade.BTCUSDT", [FILL | {"p": "much"}]),
    push("publicTrade.BTCUSDT", [FILL, FILL | {"S": "Short"}]),
    push("orderbook.1.BTCUSDT", depth(u=11, b=[["much", "1"]])),
    push("orderbook.1.BTCUSDT", depth(u=12, b=[["1"]])),
    b'{"topic":"orderbook.50.BTCUSDT","ts":1,"data":' + json.dumps(DEPTH).encode() + b"}",
    push("orderbook.50.BTCUSDT", depth(), "change"),
    push("tickers.BTCUSDT", DAY | {"lastPrice": ""}),
    push("publicTrade.BTCUSDT", [FILL])[:-9],
    b'{"topic":' + b"[" * 100_000,
    push("publicTrade.BTCUSDT", [FILL])[:-1] + b',"x":' + b"[" * 100_000,
    b"\xff\xfe",
    b"[]",
    b"",
]


def test_what_is_no_market_data_goes_aside_and_what_that_gives_stands_in_its_place(make) -> None:
    seen: list[bytes] = []

    def on_control(frame: bytes) -> list[Any]:
        seen.append(frame)
        return [Reject("bybit", "", 7, 7, "on_control", str(len(seen)))]

    feed = make("spot", "trades", "quotes", "book:50", "ticker")
    good = push("publicTrade.BTCUSDT", [FILL])
    frames = [each for frame in BAD for each in (good, frame)]
    events = tapeloom_bybit.parse(feed)(Frames(frames, 7, on_control))

    assert seen == BAD
    assert [type(event) for event in events] == [Trade, Reject] * len(BAD)
    assert [event.evidence for event in events[1::2]] == [str(n + 1) for n in range(len(BAD))]


# ------------------------------------------------------------------------ whatever the venue writes

digits = st.from_regex(r"(0|[1-9][0-9]{0,12})(\.[0-9]{1,12})?", fullmatch=True)
fills = st.fixed_dictionaries(
    {
        "p": digits,
        "v": digits,
        "i": st.text("0123456789abcdef-", min_size=1, max_size=36),
        "T": st.integers(0, 2**42),
        "S": st.sampled_from(["Buy", "Sell"]),
    }
)
pushes = st.tuples(st.lists(fills, max_size=5), st.sampled_from(["usual", "spaced", "turned"]))
others = st.sampled_from(
    [
        push("tickers.BTCUSDT", DAY),
        push("tickers.BTCUSDT", {"lastPrice": "5"}, "delta"),
        push("orderbook.1.BTCUSDT", DEPTH),
        push("orderbook.1.BTCUSDT", depth(u=6)),
        push("orderbook.50.BTCUSDT", DEPTH),
        b'{"topic":"publicTrade.BTCUSDT"}',
        b"{}",
        b"null",
    ]
)


def written(some: list[dict[str, Any]], form: str) -> bytes:
    """The same trades, as three venues with different tastes would write them."""
    whole = {"topic": "publicTrade.BTCUSDT", "type": "snapshot", "ts": 9, "data": some}
    if form == "usual":
        return json.dumps(whole, separators=(",", ":")).encode()
    if form == "turned":
        return json.dumps({"id": "x"} | dict(reversed(whole.items()))).encode()
    return json.dumps(whole, indent=2).encode()


@settings(max_examples=60, deadline=None)
@given(
    items=st.lists(st.one_of(pushes, others, st.binary(max_size=40)), max_size=30),
    cut=st.integers(1, 20),
)
def test_no_form_no_cut_and_no_garbage_costs_a_trade_and_numbers_stay_as_written(
    make, items, cut
) -> None:
    channels = ("trades", "ticker", "quotes", "book:50")
    frames = [item if isinstance(item, bytes) else written(*item) for item in items]
    wanted = [
        (fill["p"], fill["v"], fill["i"], fill["T"] * 10**6, fill["S"].lower())
        for item in items
        if not isinstance(item, bytes)
        for fill in item[0]
    ]
    together = tapeloom_bybit.parse(make("spot", *channels))(Frames(frames, 7))
    parse = tapeloom_bybit.parse(make("spot", *channels))
    pieces = [
        event
        for start in range(0, len(frames), cut)
        for event in parse(Frames(frames[start : start + cut], 7))
    ]
    trades = [event for event in together if type(event) is Trade]

    assert [
        (format(t.price, "f"), format(t.size, "f"), t.id, t.ts, t.side) for t in trades
    ] == wanted
    assert pieces == together
