"""Frames are parsed into events: every kind, in every format, among garbage."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
import tapeloom_bybit
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom import FeedSpec, Stack
from tapeloom.events import Bar, Quote, Reject, Ticker, Trade
from tapeloom.harness import compose_feed
from tapeloom.plugin import Frames, TradeBatch

PERP = "BTC/USDT:USDT"
TRADE = {
    "T": 8, "s": "BTCUSDT", "S": "Buy", "v": "0.001", "p": "16578.50", "L": "PlusTick",
    "i": "20f43950-d8dd-5b31-9112-a178eb6023af", "BT": False, "RPI": False, "seq": 1783284617,
}  # fmt: skip
DEPTH = {"s": "BTCUSDT", "b": [["16493.50", "0.006"]], "a": [["16611.00", "0.0"]], "u": 5, "seq": 9}
KLINE = {
    "start": 60_000, "end": 119_999, "interval": "1", "open": "16649.5", "close": "16677",
    "high": "16680", "low": "16608", "volume": "2.081", "turnover": "34666.4005",
    "confirm": False, "timestamp": 61_000,
}  # fmt: skip
TICKER = {
    "symbol": "BTCUSDT", "lastPrice": "4.0", "prevPrice24h": "3.5", "highPrice24h": "6",
    "lowPrice24h": "3", "volume24h": "77", "turnover24h": "300", "price24hPcnt": "0.1",
}  # fmt: skip


def push(topic: str, data: Any, type: str = "snapshot", ts: int = 9, **more: Any) -> bytes:
    envelope = {"topic": topic, "type": type, "ts": ts, "data": data, **more}
    return json.dumps(envelope, separators=(",", ":")).encode()


def parsed(feed: Any, *frames: bytes, recv: int = 7) -> list[Any]:
    return tapeloom_bybit.parse(feed)(Frames(frames, recv))


def depth(**other: Any) -> dict[str, Any]:
    return DEPTH | other


def test_the_side_of_a_trade_is_the_takers_and_its_id_a_text(make) -> None:
    (trade, other) = parsed(make(), push("publicTrade.BTCUSDT", [TRADE, TRADE | {"S": "Sell"}]))

    assert trade == Trade(
        "bybit", "BTC/USDT", 8_000_000, 7, Decimal("16578.50"), Decimal("0.001"), "buy",
        "20f43950-d8dd-5b31-9112-a178eb6023af", "trades",
    )  # fmt: skip
    assert (str(trade.price), other.side) == ("16578.50", "sell")


def test_every_trade_of_a_full_push_is_delivered_in_its_order(make) -> None:
    trades = [TRADE | {"i": str(n), "T": n} for n in range(1024)]
    events = parsed(make("linear"), push("publicTrade.BTCUSDT", trades))

    assert [(trade.id, trade.ts) for trade in events] == [(str(n), n * 10**6) for n in range(1024)]


def test_a_batch_of_only_trades_is_a_trade_batch_with_subscription_ids(make) -> None:
    feed = make("spot", "trades", "quotes", symbols=("BTC/USDT", "ETH/USDT"))
    parse = tapeloom_bybit.parse(feed)
    btc, eth = (push(f"publicTrade.{name}USDT", [TRADE, TRADE]) for name in ("BTC", "ETH"))
    trades_only, again = (parse(Frames([btc, eth], 7)) for _ in range(2))
    mixed = parse(Frames([btc, push("orderbook.1.BTCUSDT", DEPTH)], 7))

    assert isinstance(trades_only, TradeBatch)
    assert trades_only.subscription_ids == again.subscription_ids
    assert (
        len({*zip([t.symbol for t in trades_only], trades_only.subscription_ids, strict=True)}) == 2
    )
    assert not isinstance(mixed, TradeBatch)


@pytest.mark.parametrize(("kept", "wanted"), [(True, Trade), (False, Reject)])
def test_a_block_trade_is_a_trade_unless_block_trades_are_off(make, kept, wanted) -> None:
    feed = make(block_trades=kept)
    events = parsed(feed, push("publicTrade.BTCUSDT", [TRADE, TRADE | {"BT": True, "i": "b"}]))

    assert [type(event) for event in events] == [Trade, wanted]
    assert kept or (events[1].rule, events[1].event.id) == ("block_trade", "b")


def test_depth_one_is_a_quote_at_the_time_of_the_matching_engine(make) -> None:
    (quote,) = parsed(make("linear", "quotes"), push("orderbook.1.BTCUSDT", DEPTH, cts=8))

    levels = ("16493.50", "0.006", "16611.00", "0.0")
    assert quote == Quote("bybit", PERP, 8_000_000, 7, *map(Decimal, levels), 9, "quotes")


def test_a_repeated_quote_has_the_time_of_the_push_and_is_counted(make) -> None:
    feed = make("spot", "quotes")
    numbers = (5, 5, 6, 6, 1, 2)
    pushes = [
        push("orderbook.1.BTCUSDT", depth(u=u), ts=10 + n, cts=8) for n, u in enumerate(numbers)
    ]

    assert [quote.ts // 10**6 for quote in parsed(feed, *pushes)] == [8, 11, 8, 13, 8, 8]
    assert feed.counters["repeats"] == 2


def test_a_change_of_a_quote_is_a_reject(make) -> None:
    feed = make("spot", "quotes")
    (reject,) = parsed(feed, push("orderbook.1.BTCUSDT", depth(u=6), "delta"))

    assert reject.rule == "half_quote"


def test_an_empty_side_of_a_quote_is_none(make) -> None:
    feed = make("spot", "quotes")
    pushes = [
        push("orderbook.1.BTCUSDT", depth(**sides, u=u))
        for u, sides in enumerate(({}, {"a": []}, {"b": []}, {"b": [], "a": []}), 5)
    ]
    whole, *halves = parsed(feed, *pushes)
    bid, ask = (whole.bid, whole.bid_size), (whole.ask, whole.ask_size)

    assert None not in (*bid, *ask)
    assert [(q.bid, q.bid_size, q.ask, q.ask_size) for q in halves] == [
        (*bid, None, None),
        (None, None, *ask),
        (None, None, None, None),
    ]


def test_a_book_is_a_snapshot_and_then_deltas(make) -> None:
    feed = make("spot", "book:50")
    snapshot = push("orderbook.50.BTCUSDT", DEPTH, cts=8)
    first, delta = parsed(feed, snapshot, push("orderbook.50.BTCUSDT", depth(u=6), "delta", cts=8))

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


def test_an_update_with_id_one_is_a_snapshot(make) -> None:
    (book,) = parsed(make("spot", "book"), push("orderbook.1000.BTCUSDT", depth(u=1), "delta"))

    assert (book.kind, book.last_id, book.channel) == ("snapshot", 1, "book")


def test_deltas_of_unchecked_depths_have_no_first_id(make) -> None:
    feed = make("spot", "book:50", "book:200", unchecked=[200])
    events = parsed(feed, *(push(f"orderbook.{n}.BTCUSDT", DEPTH, "delta") for n in (50, 200)))

    assert [(book.first_id, book.last_id) for book in events] == [(5, 5), (None, 5)]


@pytest.mark.parametrize("levels", [50, 200, 1000])
def test_the_channel_book_has_the_configured_depth(make, levels) -> None:
    feed = make("linear", "book", "book:1", book_depth=levels)
    frames = [push(f"orderbook.{n}.BTCUSDT", DEPTH) for n in (1, 50, 200, 1000)]

    assert [(book.channel, book.depth) for book in parsed(feed, *frames)] == [
        ("book:1", 1),
        ("book", levels),
    ]
    assert feed.counters["unrequested"] == 2


def test_a_kline_is_closed_where_the_venue_confirms_it_and_a_push_may_have_two(make) -> None:
    closed = KLINE | {"start": 0, "confirm": True}
    done, live = parsed(make("spot", "klines:1m"), push("kline.1.BTCUSDT", [closed, KLINE]))

    prices = [Decimal(KLINE[key]) for key in ("open", "high", "low", "close")]
    assert live == Bar(
        "bybit", "BTC/USDT", 60_000_000_000, 7, "1m", *prices, Decimal("2.081"),
        Decimal("34666.4005"), None, None, None, False, True, 0, "klines:1m", "live",
    )  # fmt: skip
    assert (done.ts, done.closed) == (0, True)


def test_a_month_and_a_minute_are_distinguished(make) -> None:
    feed = make("spot", "klines:1m", "klines:1M", "klines:4h")
    bars = parsed(
        feed, *(push(f"kline.{interval}.BTCUSDT", [KLINE]) for interval in ("M", "240", "1"))
    )

    assert [bar.interval for bar in bars] == ["1M", "4h", "1m"]


def test_a_ticker_delta_keeps_the_fields_that_it_omits(make) -> None:
    feed = make("linear", "ticker", symbols=(PERP, "ETH/USDT:USDT"))
    frames = [
        push("tickers.BTCUSDT", {"symbol": "BTCUSDT", "lastPrice": "9"}, "delta"),
        push("tickers.BTCUSDT", TICKER),
        push("tickers.ETHUSDT", TICKER | {"lastPrice": "50"}),
        push("tickers.BTCUSDT", {"symbol": "BTCUSDT", "bid1Price": "4"}, "delta"),
        push("tickers.BTCUSDT", {"symbol": "BTCUSDT", "lastPrice": "5.50"}, "delta", 10),
        push("tickers.BTCUSDT", {"symbol": "BTCUSDT", "volume24h": "78"}, "delta", 11),
    ]
    early, snapshot, _, same, *changed = events = parsed(feed, *frames)
    figures = [Decimal(n) for n in ("4.0", "3.5", "6", "3", "77", "300")]

    assert (type(early), early.rule) == (Reject, "half_ticker")
    assert snapshot == same == Ticker("bybit", PERP, 9_000_000, 7, *figures, None, "ticker")
    assert [(str(t.last), t.volume, t.open) for t in changed] == [
        ("5.50", 77, Decimal("3.5")),
        ("5.50", 78, Decimal("3.5")),
    ]
    assert events[2].last == 50


def test_a_ticker_snapshot_replaces_all_fields(make) -> None:
    half = {key: TICKER[key] for key in ("symbol", "lastPrice")}
    _, event = parsed(
        make("linear", "ticker"), push("tickers.BTCUSDT", TICKER), push("tickers.BTCUSDT", half)
    )

    assert (type(event), event.rule) == (Reject, "half_ticker")


def test_unrequested_frames_are_counted(make) -> None:
    feed = make()
    frames = [
        push("publicTrade.ETHUSDT", [TRADE]),
        push("orderbook.1.BTCUSDT", DEPTH),
        push("orderbook.rpi.BTCUSDT", depth(b=[["1", "2", "3"]])),
        push("allLiquidation.BTCUSDT", [{"T": 1}]),
        push("system.status", [{"id": "1"}]),
    ]

    assert parsed(feed, *frames) == []
    assert feed.counters["unrequested"] == 5


def test_a_symbol_that_is_added_later_is_parsed(make) -> None:
    feed = make()
    parse = tapeloom_bybit.parse(feed)
    frame = push("publicTrade.ETHUSDT", [TRADE])
    before = parse(Frames([frame]))
    feed.listing.add("ETH/USDT", "ETHUSDT")

    assert before == []
    assert [trade.symbol for trade in parse(Frames([frame]))] == ["ETH/USDT"]


def test_one_native_name_is_two_symbols_in_two_markets(make) -> None:
    frame = push("publicTrade.BTCUSDT", [TRADE])

    assert [parsed(make(market), frame)[0].symbol for market in ("spot", "linear")] == [
        "BTC/USDT",
        PERP,
    ]


BAD = [
    b'{"success":true,"ret_msg":"subscribe","conn_id":"c","req_id":"1-1","op":"subscribe"}',
    b'{"success":true,"ret_msg":"pong","conn_id":"c","op":"ping"}',
    push("publicTrade.BTCUSDT", [TRADE | {"p": "much"}]),
    push("publicTrade.BTCUSDT", [TRADE, TRADE | {"S": "Short"}]),
    push("orderbook.1.BTCUSDT", depth(u=11, b=[["much", "1"]])),
    push("orderbook.1.BTCUSDT", depth(u=12, b=[["1"]])),
    b'{"topic":"orderbook.50.BTCUSDT","ts":1,"data":' + json.dumps(DEPTH).encode() + b"}",
    push("orderbook.50.BTCUSDT", depth(), "change"),
    push("tickers.BTCUSDT", TICKER | {"lastPrice": ""}),
    push("publicTrade.BTCUSDT", [TRADE])[:-9],
    b'{"topic":' + b"[" * 100_000,
    push("publicTrade.BTCUSDT", [TRADE])[:-1] + b',"x":' + b"[" * 100_000,
    b"\xff\xfe",
    b"[]",
    b"",
]


def test_events_of_control_frames_stand_in_their_place(make) -> None:
    seen: list[bytes] = []

    def on_control(frame: bytes) -> list[Any]:
        seen.append(frame)
        return [Reject("bybit", "", 7, 7, "on_control", str(len(seen)))]

    feed = make("spot", "trades", "quotes", "book:50", "ticker")
    good = push("publicTrade.BTCUSDT", [TRADE])
    frames = [item for frame in BAD for item in (good, frame)]
    events = tapeloom_bybit.parse(feed)(Frames(frames, 7, on_control))

    assert seen == BAD
    assert [type(event) for event in events] == [Trade, Reject] * len(BAD)
    assert [event.evidence for event in events[1::2]] == [str(n + 1) for n in range(len(BAD))]


# --------------------------------------------------------------------- any format and any garbage

digits = st.from_regex(r"(0|[1-9][0-9]{0,12})(\.[0-9]{1,12})?", fullmatch=True)
trades = st.fixed_dictionaries(
    {
        "p": digits,
        "v": digits,
        "i": st.text("0123456789abcdef-", min_size=1, max_size=36),
        "T": st.integers(0, 2**42),
        "S": st.sampled_from(["Buy", "Sell"]),
    }
)
pushes = st.tuples(st.lists(trades, max_size=5), st.sampled_from(["usual", "spaced", "turned"]))
others = st.sampled_from(
    [
        push("tickers.BTCUSDT", TICKER),
        push("tickers.BTCUSDT", {"lastPrice": "5"}, "delta"),
        push("orderbook.1.BTCUSDT", DEPTH),
        push("orderbook.1.BTCUSDT", depth(u=6)),
        push("orderbook.50.BTCUSDT", DEPTH),
        b'{"topic":"publicTrade.BTCUSDT"}',
        b"{}",
        b"null",
    ]
)


def encoded(rows: list[dict[str, Any]], form: str) -> bytes:
    """Return the frame of trades in one of three JSON formats."""
    envelope = {"topic": "publicTrade.BTCUSDT", "type": "snapshot", "ts": 9, "data": rows}
    if form == "usual":
        return json.dumps(envelope, separators=(",", ":")).encode()
    if form == "turned":
        return json.dumps({"id": "x"} | dict(reversed(envelope.items()))).encode()
    return json.dumps(envelope, indent=2).encode()


@settings(max_examples=60, deadline=None)
@given(
    items=st.lists(st.one_of(pushes, others, st.binary(max_size=40)), max_size=30),
    cut=st.integers(1, 20),
)
def test_no_frame_format_no_split_and_no_garbage_loses_a_trade_or_changes_a_number(
    make, items, cut
) -> None:
    channels = ("trades", "ticker", "quotes", "book:50")
    frames = [item if isinstance(item, bytes) else encoded(*item) for item in items]
    wanted = [
        (trade["p"], trade["v"], trade["i"], trade["T"] * 10**6, trade["S"].lower())
        for item in items
        if not isinstance(item, bytes)
        for trade in item[0]
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


def test_a_bar_confirmed_twice_with_other_values_is_a_revision() -> None:
    spec = FeedSpec("bybit", ["BTC/USDT"], ["klines:5m"])
    feed = compose_feed(Stack(feeds=(spec,)))

    def confirmed(volume: str) -> bytes:
        row = {
            "start": 1672324800000, "end": 1672325099999, "interval": "5", "open": "1", "high": "2",
            "low": "1", "close": "2", "volume": volume, "turnover": "3", "confirm": True,
        }  # fmt: skip
        frame = {"topic": "kline.5.BTCUSDT", "type": "snapshot", "ts": 1672325100001, "data": [row]}
        return json.dumps(frame).encode()

    bars = [
        bar
        for volume in ("1", "1", "2", "3")
        for bar in feed.process(feed.read([confirmed(volume)]).events)
    ]

    assert [(str(bar.volume), bar.revision) for bar in bars] == [("1", 0), ("2", 1), ("3", 2)]
