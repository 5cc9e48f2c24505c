"""Frames are parsed into events: every kind, in every format, among garbage."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
import tapeloom_binance
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom import FeedSpec, Stack
from tapeloom.events import Bar, Book, Quote, Reject, Ticker, Trade
from tapeloom.harness import compose_feed
from tapeloom.plugin import Frames, TradeBatch

PERP, INVERSE = "BTC/USDT:USDT", "BTC/USD:BTC"
TRADE = {"e": "trade", "E": 9, "s": "BTCUSDT", "t": 12, "p": "0.10", "q": "100", "T": 8, "m": True}
BOOK_TICKER = {"u": 40, "s": "BTCUSDT", "b": "25.30", "B": "31.2", "a": "25.36", "A": "40.0"}
DELTA = {
    "e": "depthUpdate", "E": 9, "s": "BTCUSDT", "U": 157, "u": 160,
    "b": [["0.0024", "10"]], "a": [["0.0026", "0.000"]],
}  # fmt: skip
KLINE: dict[str, Any] = {
    "e": "kline", "E": 9, "s": "BTCUSDT",
    "k": {
        "t": 60_000, "T": 119_999, "s": "BTCUSDT", "i": "1m", "f": 100, "L": 200, "o": "0.0010",
        "c": "0.0020", "h": "0.0025", "l": "0.0015", "v": "1000", "n": 100, "x": True,
        "q": "1.0000", "V": "500", "Q": "0.500", "B": "123456",
    },
}  # fmt: skip
TICKER = {
    "e": "24hrTicker", "E": 9, "s": "BTCUSDT", "p": "1", "P": "2", "w": "3", "c": "4.0", "Q": "5",
    "o": "3.5", "h": "6", "l": "3", "v": "77", "q": "300", "O": 1, "C": 9, "F": 1, "L": 5, "n": 5,
}  # fmt: skip


def combined(stream: str, event: Any, **form: Any) -> bytes:
    return json.dumps(
        {"stream": stream, "data": event}, **({"separators": (",", ":")} | form)
    ).encode()


def parsed(feed, *frames: bytes, recv: int = 7) -> list[Any]:
    return tapeloom_binance.parse(feed)(Frames(frames, recv))


def test_a_trade_whose_buyer_was_the_maker_has_the_side_sell(make) -> None:
    (trade,) = parsed(make(), combined("btcusdt@trade", TRADE))
    (other,) = parsed(make(), combined("btcusdt@trade", TRADE | {"m": False}))

    assert trade == Trade(
        "binance", "BTC/USDT", 8_000_000, 7, Decimal("0.10"), Decimal(100), "sell", 12, "trades"
    )
    assert (str(trade.price), other.side) == ("0.10", "buy")


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ("btcusdt@trade", TRADE),
        ("btcusdt@bookTicker", BOOK_TICKER),
        ("btcusdt@depth", DELTA),
        ("btcusdt@kline_1m", KLINE),
        ("btcusdt@ticker", TICKER),
    ],
)
def test_a_message_of_a_raw_stream_is_read_as_that_of_a_combined_one(make, stream, message) -> None:
    channels = ("trades", "quotes", "book", "klines:1m", "ticker")
    raw = json.dumps(message).encode()
    (event,) = parsed(make(channels=channels), raw)

    assert event == parsed(make(channels=channels), combined(stream, message))[0]


def test_a_message_of_a_raw_stream_that_was_not_requested_is_counted(make) -> None:
    feed = make()
    frames = [json.dumps(message).encode() for message in (DELTA, TRADE | {"s": "ETHUSDT"})]

    assert parsed(feed, *frames) == []
    assert feed.counters["unrequested"] == 2


@pytest.mark.parametrize("together", [False, True])
def test_an_unchanged_price_is_the_same_object(make, *, together: bool) -> None:
    texts = ["0.10", "0.10", "0.1", "0.10"]
    frames = [combined("btcusdt@trade", TRADE | {"p": text}) for text in ["7", *texts]]
    parse = tapeloom_binance.parse(make())
    parse(Frames(frames[:1], 7))  # the stream is known from now on
    parts = [frames[1:]] if together else [[frame] for frame in frames[1:]]
    prices = [trade.price for part in parts for trade in parse(Frames(part, 7))]

    assert [str(price) for price in prices] == texts
    assert prices[0] is prices[1]
    assert prices[1] is not prices[3]


def test_an_invalid_price_rejects_only_its_own_trade(make) -> None:
    frames = [combined("btcusdt@trade", TRADE | {"p": text}) for text in ["7", "8", "x", "8", "9"]]
    parse = tapeloom_binance.parse(make())
    parse(Frames(frames[:1], 7))
    events = parse(Frames(frames, 7, lambda frame: [Reject("", "", 7, 7, "unreadable", "")]))

    assert [event.type for event in events] == ["trade", "trade", "reject", "trade", "trade"]
    assert [event.price for event in events if isinstance(event, Trade)] == [7, 8, 8, 9]


def test_a_quote_without_a_venue_time_has_the_receive_time(make) -> None:
    (spot,) = parsed(make(channels=("quotes",)), combined("btcusdt@bookTicker", BOOK_TICKER))
    timed = BOOK_TICKER | {"e": "bookTicker", "T": 8, "E": 9}
    (perp,) = parsed(make("usdm", (PERP,), ("quotes",)), combined("btcusdt@bookTicker", timed))

    prices = [Decimal(BOOK_TICKER[key]) for key in "bBaA"]
    assert spot == Quote("binance", "BTC/USDT", 7, 7, *prices, 40, "quotes")
    assert perp == Quote("binance", PERP, 8_000_000, 7, *prices, 40, "quotes")


@pytest.mark.parametrize("together", [False, True], ids=["single frames", "a batch"])
def test_a_side_at_price_0_is_none(make, together: bool) -> None:
    none = "0.00000000"
    no_ask, no_bid = {"a": none, "A": none}, {"b": none, "B": none}
    frames = [
        combined("btcusdt@bookTicker", BOOK_TICKER | {"e": "bookTicker"} | sides)
        for sides in ({}, no_ask, no_bid, no_ask | no_bid)
    ]
    feed = make("usdm" if together else "spot", (PERP if together else "BTC/USDT",), ("quotes",))
    whole, *halves = parsed(feed, *frames)
    bid, ask = (whole.bid, whole.bid_size), (whole.ask, whole.ask_size)

    assert [(q.bid, q.bid_size, q.ask, q.ask_size) for q in halves] == [
        (*bid, None, None),
        (None, None, *ask),
        (None, None, None, None),
    ]


def test_a_depth_update_is_a_book_delta(make) -> None:
    (spot,) = parsed(make(channels=("book",)), combined("btcusdt@depth@100ms", DELTA))
    timed = DELTA | {"T": 8, "pu": 149}
    (perp,) = parsed(make("usdm", (PERP,), ("book",)), combined("btcusdt@depth@100ms", timed))

    assert (spot.kind, spot.first_id, spot.last_id, spot.previous_id) == ("delta", 157, 160, None)
    assert (spot.ts, perp.ts, perp.previous_id) == (9_000_000, 8_000_000, 149)
    assert spot.bids == [(Decimal("0.0024"), Decimal(10))]
    assert [[*level] for level in spot.raw_asks] == [["0.0026", "0.000"]]


def test_a_partial_book_is_a_snapshot_of_its_channel(make) -> None:
    top = {"lastUpdateId": 160, "bids": [["0.0024", "10"]], "asks": [["0.0026", "100"]]}
    (spot,) = parsed(make(channels=("book:5",)), combined("btcusdt@depth5@100ms", top))
    timed = DELTA | {"T": 8, "pu": 149}
    usdm = make("usdm", (PERP,), ("book:20", "book"))
    (perp,) = parsed(usdm, combined("btcusdt@depth20@100ms", timed))

    assert isinstance(spot, Book)
    assert (spot.kind, spot.depth, spot.channel, spot.last_id) == ("snapshot", 5, "book:5", 160)
    assert (spot.ts, spot.first_id) == (7, None)
    assert (perp.kind, perp.depth, perp.channel, perp.last_id) == ("snapshot", 20, "book:20", 160)
    assert (perp.ts, perp.previous_id) == (8_000_000, None)


def test_a_kline_is_a_bar_that_is_closed_once(make) -> None:
    (bar,) = parsed(make(channels=("klines:1m",)), combined("btcusdt@kline_1m", KLINE))
    k = KLINE["k"]

    assert bar == Bar(
        "binance", "BTC/USDT", 60_000_000_000, 7, "1m", *(Decimal(k[key]) for key in "ohlcvqVQ"),
        100, True, True, 0, "klines:1m", "live",
    )  # fmt: skip


def test_a_month_and_a_minute_are_distinguished(make) -> None:
    month = {**KLINE, "k": KLINE["k"] | {"i": "1M"}}
    feed = make(channels=("klines:1m", "klines:1M"))
    bars = parsed(feed, combined("btcusdt@kline_1M", month), combined("btcusdt@kline_1m", KLINE))

    assert [bar.interval for bar in bars] == ["1M", "1m"]


def test_a_ticker_has_the_figures_of_the_day(make) -> None:
    (day,) = parsed(make(channels=("ticker",)), combined("btcusdt@ticker", TICKER))

    figures = [Decimal(TICKER[key]) for key in "cohlvq"]
    assert day == Ticker("binance", "BTC/USDT", 9_000_000, 7, *figures, 5, "ticker")


def test_a_trade_outside_of_the_book_is_rejected_in_its_place(make) -> None:
    feed = make("usdm", (PERP,), ("trades",), futures_trades="raw")
    market, fund = TRADE | {"X": "MARKET"}, TRADE | {"t": 13, "X": "INSURANCE_FUND"}
    events = parsed(feed, *(combined("btcusdt@trade", frame) for frame in (market, fund, market)))

    assert [type(event) for event in events] == [Trade, Reject, Trade]
    assert events[1].rule == "not_market_trade"
    assert events[1].evidence == "X=INSURANCE_FUND"
    assert events[1].event.id == 13


AGGREGATE = {"e": "aggTrade", "a": 5, **{key: TRADE[key] for key in "EspqTm"}, "f": 1, "l": 2}


@pytest.mark.parametrize(
    ("market", "symbol", "kind", "settings"),
    [
        ("spot", "BTC/USDT", "trade", {}),
        ("usdm", PERP, "aggTrade", {}),
        ("usdm", PERP, "trade", {"futures_trades": "raw"}),
        ("coinm", INVERSE, "aggTrade", {}),
    ],
)
def test_frames_parsed_together_give_the_same_events_as_parsed_singly(
    make, market, symbol, kind, settings
) -> None:
    """Once a stream is open, many frames are decoded together."""
    feed = make(market, (symbol,), ("trades",), **settings)
    parse = tapeloom_binance.parse(feed)
    stream = f"{feed.listing.native[symbol].lower()}@{kind}"
    base = AGGREGATE if kind == "aggTrade" else TRADE
    trades = [base | {"m": n % 3 == 0, "t": n, "a": n} for n in range(20)]
    if settings:
        trades = [trade | {"X": "ADL" if trade["t"] == 7 else "MARKET"} for trade in trades]
    frames = [combined(stream, trade) for trade in trades]
    singly = [event for frame in frames for event in parse(Frames([frame], 7))]
    together = parse(Frames(frames, 7))

    assert together == singly
    assert isinstance(together, TradeBatch) is not bool(settings)
    assert {event.side for event in together if type(event) is Trade} == {"buy", "sell"}
    assert [type(event) for event in together].count(Reject) == len(settings)


@pytest.mark.parametrize(
    ("market", "symbol", "channels", "wanted"),
    [
        ("coinm", INVERSE, ("trades",), "trades"),
        ("usdm", PERP, ("trades",), "trades"),
        ("usdm", PERP, ("agg_trades",), "agg_trades"),
        ("spot", "BTC/USDT", ("agg_trades", "trades"), "agg_trades"),
        ("spot", "BTC/USDT", ("trades",), None),
    ],
)
def test_an_aggregate_trade_goes_to_the_channel_that_requested_it(
    make, market, symbol, channels, wanted
) -> None:
    feed = make(market, (symbol,), channels)
    native = feed.listing.native[symbol].lower()
    events = parsed(feed, combined(f"{native}@aggTrade", AGGREGATE))

    assert [(event.channel, event.id) for event in events] == ([(wanted, 5)] if wanted else [])


def test_a_tape_with_both_kinds_of_trades_gives_one_of_them(make) -> None:
    raw, aggregate = combined("btcusdt@trade", TRADE), combined("btcusdt@aggTrade", AGGREGATE)

    def ids(*frames: bytes, **settings: str) -> list[int]:
        feed = make("usdm", (PERP,), ("trades",), **settings)
        found = [event.id for event in parsed(feed, *frames)]
        assert feed.counters["unrequested"] == len(frames) - len(found)
        return found

    assert ids(raw, aggregate, raw) == [12, 12]
    assert ids(aggregate, raw, aggregate) == [5, 5]
    assert ids(aggregate, raw, aggregate, futures_trades="raw") == [12]


def test_a_tape_with_a_book_at_two_speeds_gives_one_of_them(make) -> None:
    feed = make(channels=("book",))
    fast, slow = combined("btcusdt@depth@100ms", DELTA), combined("btcusdt@depth", DELTA)

    assert len(parsed(feed, slow, fast, slow)) == 2
    assert feed.counters["unrequested"] == 1


def test_unrequested_frames_are_counted(make) -> None:
    feed = make(channels=("trades",))
    frames = [
        combined("ethusdt@trade", TRADE | {"s": "ETHUSDT"}),
        combined("btcusdt@bookTicker", BOOK_TICKER),
        combined("btcusdt@miniTicker", {"e": "24hrMiniTicker", "s": "BTCUSDT"}),
        combined("!ticker@arr", [TICKER]),
        combined("btcusdt@kline_1d@+08:00", KLINE),
    ]

    assert parsed(feed, *frames) == []
    assert feed.counters["unrequested"] == 5


@pytest.mark.parametrize(
    ("market", "symbol", "own", "other"), [("usdm", PERP, 1, 2), ("coinm", INVERSE, 2, 1)]
)
def test_a_stream_of_the_other_kind_of_futures_is_unrequested(
    make, market, symbol, own, other
) -> None:
    """Since the merge, the hosts of either kind may send both; `st` tells them apart."""
    for extra, count in (({}, 20), ({"st": own}, 20), ({"st": other}, 0)):
        feed = make(market, (symbol,), ("trades",))
        stream = f"{feed.listing.native[symbol].lower()}@aggTrade"
        frames = [combined(stream, AGGREGATE | {"nq": "90"} | extra)] * 20

        assert len(parsed(feed, *frames)) == count
        assert feed.counters["unrequested"] == 20 - count


def test_sizes_of_coin_margined_futures_are_contracts(make) -> None:
    feed = make("coinm", (INVERSE,), ("trades", "klines:1m", "book", "quotes"))
    timed = {"T": 8, "ps": "BTCUSD", "st": 2}
    trade, bar, book, quote = parsed(
        feed,
        combined("btcusd_perp@aggTrade", AGGREGATE | {"s": "BTCUSD_PERP", "q": "15"}),
        combined("btcusd_perp@kline_1m", KLINE),
        combined("btcusd_perp@depth@100ms", DELTA | timed | {"pu": 149}),
        combined("btcusd_perp@bookTicker", BOOK_TICKER | timed | {"e": "bookTicker"}),
    )

    assert (trade.symbol, trade.size) == (INVERSE, Decimal(15))
    assert (bar.volume, bar.quote_volume) == (Decimal(1000), Decimal("1.0000"))
    assert (book.previous_id, book.last_id, quote.ts) == (149, 160, 8_000_000)


def test_a_symbol_that_is_added_later_is_parsed(make) -> None:
    feed = make()
    parse = tapeloom_binance.parse(feed)
    frame = combined("ethusdt@trade", TRADE | {"s": "ETHUSDT"})
    before = parse(Frames([frame] * 20))
    feed.listing.add("ETH/USDT", "ETHUSDT")

    assert before == []
    assert [trade.symbol for trade in parse(Frames([frame] * 20))] == ["ETH/USDT"] * 20


def test_symbols_need_not_be_latin(make) -> None:
    symbol = "币安/USDT"
    frames = [
        combined("币安usdt@trade", TRADE | {"s": "币安USDT"}, ensure_ascii=ascii_only)
        for ascii_only in (True, False)
    ]

    assert [trade.symbol for trade in parsed(make(symbols=(symbol,)), *frames)] == [symbol] * 2


def test_times_in_microseconds_are_parsed_if_requested(make) -> None:
    frame = combined("btcusdt@trade", TRADE | {"T": 1_672_515_782_136_001})
    (spot,) = parsed(make(microseconds=True), frame)
    usdm = make("usdm", (PERP,), ("trades",), futures_trades="raw", microseconds=True)
    (perp,) = parsed(usdm, combined("btcusdt@trade", TRADE))

    assert spot.ts == 1_672_515_782_136_001_000
    assert perp.ts == 8_000_000


def test_events_of_control_frames_stand_in_their_place(make) -> None:
    seen: list[bytes] = []

    def on_control(frame: bytes) -> list[Any]:
        seen.append(frame)
        return [Reject("binance", "", 7, 7, "on_control", str(len(seen)))]

    good = combined("btcusdt@trade", TRADE)
    control = [
        b'{"result":null,"id":1}',
        b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1}}',
        b'{"e":"serverShutdown","E":1}',
        b'{"code":2,"msg":"Invalid request"}',
        b'{"stream":"btcusdt@trade"}',
        b'{"lastUpdateId":1,"bids":[],"asks":[]}',
        combined("btcusdt@trade", TRADE | {"p": "much"}),
        good[:-9],
        b'{"x":' + b"[" * 100_000,
        b"\xff\xfe",
        b"",
    ]
    frames = [item for frame in control for item in (good, frame)]
    events = tapeloom_binance.parse(make())(Frames(frames, 7, on_control))

    assert seen == control
    assert [type(event) for event in events] == [Trade, Reject] * len(control)
    assert [event.evidence for event in events[1::2]] == [str(n + 1) for n in range(len(control))]


def test_a_bad_frame_rejects_only_itself(make) -> None:
    parse = tapeloom_binance.parse(make())
    good, bad = combined("btcusdt@trade", TRADE), combined("btcusdt@trade", TRADE | {"p": "much"})
    deep = combined("btcusdt@trade", TRADE | {"new": 1}).replace(b"1}}", b"[" * 100_000)
    parse(Frames([good] * 20))

    for frame in (bad, deep, good[:-1]):
        events = parse(Frames([good] * 10 + [frame] + [good] * 10))
        assert [type(event) for event in events] == [Trade] * 10 + [Reject] + [Trade] * 10


# --------------------------------------------------------------------- any format and any garbage

digits = st.from_regex(r"(0|[1-9][0-9]{0,12})(\.[0-9]{1,12})?", fullmatch=True)
trades = st.fixed_dictionaries(
    {
        "p": digits,
        "q": digits,
        "t": st.integers(0, 2**53),
        "T": st.integers(0, 2**42),
        "m": st.booleans(),
    }
)
forms = st.sampled_from(["combined", "spaced", "turned", "mixed", "escaped"])
garbage = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [b"{}", b"[]", b"null", b'{"stream":"btcusdt@trade","data":{}}', b'"@"', b"\x00"]
    ),
)


def encoded(trade: dict[str, Any], form: str) -> bytes:
    """Return the frame of a trade in one of five JSON formats."""
    event = {"e": "trade", "E": 1, "s": "BTCUSDT", **trade, "M": True}
    match form:
        case "spaced":
            return combined("btcusdt@trade", event, indent=2, separators=(" , ", " : "))
        case "turned":
            return json.dumps({"data": event, "stream": "btcusdt@trade"}).encode()
        case "mixed":
            return combined("btcusdt@trade", dict(reversed(event.items())) | {"new": {"t": [1]}})
        case "escaped":
            return combined("btcusdt@trade", event).replace(b"usdt@", b"\\u0075sdt@")
        case _:
            return combined("btcusdt@trade", event)


@settings(max_examples=120, deadline=None)
@given(
    items=st.lists(st.one_of(st.tuples(trades, forms), garbage), max_size=40),
    cut=st.integers(1, 40),
)
def test_no_frame_format_and_no_garbage_loses_a_trade_or_changes_a_number(make, items, cut) -> None:
    frames = [item if isinstance(item, bytes) else encoded(*item) for item in items]
    wanted = [
        (
            Decimal(trade["p"]).as_tuple(),
            Decimal(trade["q"]).as_tuple(),
            trade["t"],
            trade["T"] * 10**6,
        )
        for trade, _ in (item for item in items if not isinstance(item, bytes))
    ]
    together = tapeloom_binance.parse(make())(Frames(frames, 7))
    parse = tapeloom_binance.parse(make())
    parse(Frames([combined("btcusdt@trade", TRADE)]))
    pieces = [
        event
        for start in range(0, len(frames), cut)
        for event in parse(Frames(frames[start : start + cut], 7))
    ]
    trades = [event for event in together if type(event) is Trade]

    assert [(t.price.as_tuple(), t.size.as_tuple(), t.id, t.ts) for t in trades] == wanted
    assert len(together) == len(frames)
    assert pieces == together


def test_a_bar_confirmed_twice_with_other_values_is_a_revision() -> None:
    spec = FeedSpec("binance", ["BTC/USDT"], ["klines:1m"], market="spot")
    feed = compose_feed(Stack(feeds=(spec,)))

    def closed(volume: str) -> bytes:
        bar = {
            "t": 1633998480000, "T": 1633998539999, "s": "BTCUSDT", "i": "1m", "o": "1", "c": "2",
            "h": "2", "l": "1", "v": volume, "n": 3, "x": True, "q": "9", "V": "1", "Q": "2",
        }  # fmt: skip
        data = {"e": "kline", "E": 1633998540001, "s": "BTCUSDT", "k": bar}
        return json.dumps({"stream": "btcusdt@kline_1m", "data": data}).encode()

    bars = [
        bar
        for volume in ("4", "4", "5", "6")
        for bar in feed.process(feed.read([closed(volume)]).events)
    ]

    assert [(str(bar.volume), bar.revision) for bar in bars] == [("4", 0), ("5", 1), ("6", 2)]
