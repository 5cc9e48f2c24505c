"""ccxt's structures become events, once each and with all digits."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tapeloom.events import Bar, Book, Quote, Reject, Ticker, Trade, encode
from tapeloom.plugin import Feed
from tapeloom.plugin.bounds import reject_out_of_bounds
from tapeloom_ccxt.parsers import ChannelParser, CrossedError, make_parser
from tapeloom_testing import VirtualClock

MS = 1_000_000


def read(channel: str, numbered: bool = False) -> ChannelParser:
    feed = Feed("f", "ccxt-acme", "acme", clock=VirtualClock())
    return make_parser(feed, "BTC/USDT", channel, numbered=numbered, snapshot_every=60)


def trade(id: Any, price: Any = "1.50", **more: Any) -> dict[str, Any]:
    return {"id": id, "timestamp": 7, "side": "buy", "price": price, "amount": "0.10", **more}


def book(bids: dict[str, str], asks: dict[str, str], **more: Any) -> dict[str, Any]:
    sides = ([[Decimal(p), Decimal(s)] for p, s in side.items()] for side in (bids, asks))
    return {"timestamp": 7, **dict(zip(("bids", "asks"), sides, strict=True)), **more}


# ------------------------------------------------------------------------------------------- trades


def test_a_trade_keeps_the_digits_of_its_text():
    [event] = read("trades")([trade("a")], 9)

    assert event == Trade(
        "ccxt-acme", "BTC/USDT", 7 * MS, 9, Decimal("1.50"), Decimal("0.10"), "buy", "a"
    )
    assert str(event.price) == "1.50"


def test_a_float_is_read_as_its_shortest_decimal():
    [event] = read("trades")([trade("a", 0.1)], 9)

    assert str(event.price) == "0.1"


def test_a_trade_id_is_a_number_only_with_numbered_trades():
    assert read("trades")([trade("17")], 9)[0].id == "17"
    assert read("trades", numbered=True)([trade("17")], 9)[0].id == 17


def test_the_side_of_a_trade_is_not_guessed():
    assert read("trades")([trade("a", side=None)], 9)[0].side is None


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(1, 7))
def test_a_repeated_trade_is_rejected_in_any_batching(ids, size):
    trades = read("trades")
    events = [
        event
        for start in range(0, len(ids), size)
        for event in trades(list(map(trade, ids[start : start + size])), 9)
    ]

    assert [event.id for event in events if type(event) is Trade] == [*map(str, dict.fromkeys(ids))]
    rejected = [event for event in events if type(event) is Reject]
    assert len(events) == len(ids)
    assert all(event.rule == "duplicate" and event.event is not None for event in rejected)


def test_absurd_ids_are_not_remembered():
    trades = read("trades")
    events = trades([trade("x" * 5000), trade("x" * 5000), trade("a")], 9)

    assert [event.rule for event in reject_out_of_bounds(events)[:2]] == ["out_of_bounds"] * 2
    assert trades._recent == {"a"}


def test_trades_without_an_id_are_never_duplicates():
    events = read("trades")([trade(None), trade(None)], 9)

    assert [type(event) for event in events] == [Trade, Trade]


@pytest.mark.parametrize("price", [None, "", "NaN", "a lot"])
def test_a_trade_without_a_price_is_rejected_alone(price):
    events = read("trades")([trade("a"), trade("b", price, info={"raw": 1}), trade("c")], 9)

    assert [type(event) for event in events] == [Trade, Reject, Trade]
    assert events[1].rule == "incomplete"
    assert "raw" in events[1].evidence


# -------------------------------------------------------------------------------------------- books


def test_a_book_is_a_snapshot_and_then_deltas():
    books = read("book")
    [whole] = books(book({"9": "1", "8": "2.50"}, {"10": "1"}, nonce=5), 9)
    [delta] = books(book({"9": "3", "7": "1"}, {"10": "1"}, nonce=6), 10)

    assert (whole.kind, whole.raw_bids) == ("snapshot", [("9", "1"), ("8", "2.50")])
    assert (delta.kind, delta.raw_bids) == ("delta", [("9", "3"), ("7", "1"), ("8", "0")])
    assert delta.raw_asks == []
    assert (delta.first_id, delta.last_id, delta.previous_id) == (None, 6, None)


def test_an_unchanged_book_gives_no_event():
    books = read("book")
    books(book({"9": "1"}, {"10": "1"}), 9)

    assert books(book({"9": "1"}, {"10": "1"}), 10) == []


def test_a_snapshot_is_repeated_at_intervals_and_after_an_interruption():
    books = read("book")
    same = book({"9": "1"}, {"10": "1"})
    kinds = [event.kind for at in (1, 61, 62) for event in books(same, at * 1_000_000_000)]
    books.reset()

    assert kinds == ["snapshot", "snapshot"]
    assert books(same, 63_000_000_000)[0].kind == "snapshot"


sides = st.dictionaries(st.integers(1, 9).map(str), st.integers(1, 3).map(str), max_size=5)


@given(st.lists(sides, min_size=1, max_size=12))
def test_the_deltas_rebuild_the_book(states):
    books, kept = read("book"), {}
    for now, state in enumerate(states):
        for event in books(book(state, {}), now):
            assert isinstance(event, Book)
            if event.kind == "snapshot":
                kept = {}
            kept |= dict(event.raw_bids)
        assert {price: size for price, size in kept.items() if size != "0"} == state


def test_the_best_levels_are_a_snapshot_after_each_change():
    tops = read("book:1")
    first = tops(book({"9": "1", "8": "1"}, {"10": "1"}), 9)
    deeper = tops(book({"9": "1", "8": "2"}, {"10": "1"}), 10)
    second = tops(book({"9": "2", "8": "2"}, {"10": "1"}), 11)

    assert [event.raw_bids for event in first + deeper + second] == [[("9", "1")], [("9", "2")]]
    assert {(event.kind, event.depth) for event in first + second} == {("snapshot", 1)}


def test_a_book_that_stays_crossed_raises():
    books = read("book")
    assert books(book({"9": "1"}, {"9": "1"}), 9)

    with pytest.raises(CrossedError, match="bid 9 at or above ask 9"):
        books(book({"9": "1"}, {"9": "2"}), 10)


def test_a_size_has_no_exponent():
    [event] = read("book")(book({"1E-7": "2E-8"}, {}), 9)

    assert event.raw_bids == [("0.0000001", "0.00000002")]


# --------------------------------------------------------------------------------------------- bars


def row(start: int, close: int) -> list[Any]:
    return [start, Decimal(1), Decimal(9), Decimal(1), Decimal(close), Decimal("0.50")]


def summaries(events: list[Any]) -> list[tuple[int, int, bool, int]]:
    return [(event.ts // MS, int(event.close), event.closed, event.revision) for event in events]


def test_a_bar_is_closed_once_with_its_last_values_when_a_later_one_comes():
    bars = read("klines:1m")
    calls = [[row(0, 2)], [row(0, 3)], [row(0, 4), row(60, 5)], [row(60, 6)]]

    assert [summaries(bars(call, 9)) for call in calls] == [
        [(0, 2, False, 0)],
        [(0, 3, False, 0)],
        [(0, 4, True, 0), (60, 5, False, 0)],
        [(60, 6, False, 0)],
    ]


def test_an_unchanged_bar_gives_no_event():
    bars = read("klines:1m")
    bars([row(0, 2)], 9)

    assert bars([row(0, 2)], 10) == []


def test_a_closed_bar_that_changes_is_a_revision():
    bars = read("klines:1m")
    bars([row(0, 2), row(60, 3)], 9)

    assert summaries(bars([row(0, 7)], 9)) == [(0, 7, True, 1)]
    assert summaries(bars([row(0, 8), row(60, 3)], 9)) == [(0, 8, True, 1)]


def test_a_bar_interrupted_by_a_reset_is_not_closed():
    bars = read("klines:1m")
    bars([row(0, 2)], 9)
    bars.reset()

    assert summaries(bars([row(120, 3)], 9)) == [(120, 3, False, 0)]


def test_bars_from_before_the_subscription_are_history():
    bars = read("klines:1m")([row(0, 2), row(60, 3), row(120, 4)], 9)

    assert [(bar.closed, bar.origin) for bar in bars] == [
        (True, "history"),
        (True, "history"),
        (False, "live"),
    ]


def test_a_bar_has_the_digits_of_its_text():
    [bar] = read("klines:1m")([row(0, 2)], 9)

    assert isinstance(bar, Bar)
    assert str(bar.volume) == "0.50"
    assert bar.interval == "1m"


def test_a_row_without_a_price_is_rejected():
    [event] = read("klines:1m")([[0, None, None, None, None, None]], 9)

    assert isinstance(event, Reject)
    assert event.rule == "incomplete"


def test_rows_of_the_far_future_do_not_stop_the_bars_and_cost_no_other_row():
    bars = read("klines:1m")
    bars([row(0, 2)], 9)
    far = [row(10**15, 8), row(10**15 + 60, 9)]
    rejects = [event.rule for event in bars(far, 9)]
    nameless, closed, formed = bars([[None, 1, 1, 1, 1, 1], row(0, 3), row(60, 4)], 9)

    assert rejects == ["ahead", "ahead"]
    assert nameless.rule == "incomplete"
    assert summaries([closed, formed]) == [(0, 3, True, 0), (60, 4, False, 0)]


@pytest.mark.parametrize("channel", ["trades", "klines:1m"])
def test_many_unreadable_items_are_rejected_together(channel):
    events = read(channel)([1] * 100_000, 9)

    assert len(events) == 101
    assert events[-1].evidence == "the rest of 100000"


@pytest.mark.parametrize("data", [10**5000, [[[10**5000]]]], ids=["integer", "nested"])
def test_data_that_cannot_be_shown_is_a_reject(data):
    (event,) = read("ticker")(data, 9)

    assert event.evidence.endswith("that cannot be shown")


# ------------------------------------------------------------------------------- quotes and tickers


def test_a_quote_is_emitted_when_it_has_changed():
    quotes = read("quotes")
    quote = {"bid": "9.0", "bidVolume": "1", "ask": "10", "askVolume": None, "timestamp": None}

    [event] = quotes({"BTC/USDT": quote, "ETH/USDT": quote}, 9)
    assert isinstance(event, Quote)
    assert (str(event.bid), event.ask_size, event.ts) == ("9.0", 0, 9)
    assert quotes({"BTC/USDT": quote}, 10) == []
    assert len(quotes({"BTC/USDT": {**quote, "bid": "9.1"}}, 11)) == 1


@pytest.mark.parametrize("none", [None, "0", 0.0])
def test_an_empty_side_of_a_quote_is_none(none):
    quotes = read("quotes")
    sides = [
        {"bid": "9", "bidVolume": "1", "ask": none, "askVolume": none},
        {"bid": none, "bidVolume": none, "ask": "10", "askVolume": "2"},
        {"bid": none, "bidVolume": none, "ask": none, "askVolume": none},
    ]
    events = [event for side in sides for event in quotes({"BTC/USDT": side}, 9)]

    assert [(q.bid, q.bid_size, q.ask, q.ask_size) for q in events] == [
        (9, 1, None, None),
        (None, None, 10, 2),
        (None, None, None, None),
    ]


def test_a_quote_with_a_price_that_is_no_number_is_rejected():
    [event] = read("quotes")({"BTC/USDT": {"bid": "9", "ask": "nan"}}, 9)

    assert isinstance(event, Reject)
    assert event.rule == "incomplete"


def test_missing_fields_of_a_ticker_are_none():
    [event] = read("ticker")({"last": "9.50", "high": "10", "timestamp": 7}, 9)

    assert isinstance(event, Ticker)
    assert (str(event.last), event.high, event.low, event.ts) == ("9.50", 10, None, 7 * MS)


def test_a_ticker_without_a_last_price_is_rejected():
    [event] = read("ticker")({"last": None}, 9)

    assert isinstance(event, Reject)
    assert event.rule == "incomplete"


# ---------------------------------------------------------------------------------- unreadable data

GOOD = {
    "trades": [trade("b")],
    "book": book({"9": "1"}, {"10": "2"}),
    "book:1": book({"9": "1"}, {"10": "2"}),
    "klines:1m": [row(0, 2), row(60, 3)],
    "ticker": {"timestamp": 7, "last": Decimal(1)},
    "quotes": {"BTC/USDT": {"bid": Decimal(1), "ask": Decimal(2)}},
}


@pytest.mark.parametrize(
    ("channel", "data"),
    [
        *(
            (channel, {"timestamp": 7, "bids": [level], "asks": [[Decimal(10), Decimal(2)]]})
            for channel in ("book", "book:1")
            for level in (None, [], [Decimal(9)], [None, Decimal(1)], [Decimal(9), None], ["x", 1])
        ),
        ("book", {"timestamp": 7, "bids": None, "asks": []}),
        ("book", None),
        ("trades", [None]),
        ("klines:1m", [None]),
        ("klines:1m", [[None, 1, 2, 3, 4, 5]]),
        ("ticker", None),
        ("ticker", {"timestamp": "soon", "last": 1}),
        ("quotes", {"BTC/USDT": None}),
    ],
)
def test_data_that_cannot_be_read_is_a_reject_and_the_next_is_delivered(channel, data):
    parse, fresh = read(channel), read(channel)
    rejects = parse(data, 9)

    assert [(type(event), event.rule, event.channel) for event in rejects] == [
        (Reject, "incomplete", channel)
    ]
    assert parse(GOOD[channel], 9) == fresh(GOOD[channel], 9) != []


def test_a_rejected_book_is_made_up_by_the_next_delta():
    books = read("book")
    books(book({"9": "1"}, {"10": "1"}), 9)
    books({"timestamp": 7, "bids": [[Decimal(8), None]], "asks": []}, 9)
    [delta] = books(book({"9": "2"}, {"11": "1"}), 9)

    assert (delta.kind, delta.raw_bids) == ("delta", [("9", "2")])
    assert delta.raw_asks == [("11", "1"), ("10", "0")]


# ----------------------------------------------------------------------------- absurd values

ABSURD: list[Any] = [
    None, "", "9" * 4298, "9" * 5000, 10**4298, -(10**15), 10**15, 1e308, float("nan"), float("inf"),
    "1E-999999", "1E+999999", "0E-999999", Decimal("1E-999999"), Decimal("1E+999999"), "NaN", "sNaN",
    Decimal("sNaN"), "0x10", "\ud800", "\x1b]0;title\x07", "x" * 5000, [], {}, [[]],
]  # fmt: skip
ROW = {"timestamp": 7, "last": "1", "open": "1", "high": "1", "low": "1", "baseVolume": "2"}
QUOTE = {"timestamp": 7, "bid": "1", "bidVolume": "2", "ask": "3", "askVolume": "4"}
#: What core's handling of a topic catches: the channel is then read again.
CAUGHT = (ArithmeticError, AttributeError, CrossedError, LookupError, TypeError, ValueError)


def absurd_data() -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for bad in ABSURD:
        found += [("trades", [trade("a"), {**trade("b"), name: bad}]) for name in trade("b")]
        found += [("ticker", {**ROW, name: bad}) for name in ROW]
        found += [("quotes", {"BTC/USDT": {**QUOTE, name: bad}}) for name in QUOTE]
        found += [
            ("klines:1m", [[7, 1, 2, 1, 2, 3], [*[60_007, 1, 2, 1, 2, 3][:at], bad, 1, 1, 1, 1, 1]])
            for at in range(6)
        ]
        for level in ([bad, "1"], ["1", bad]):
            found.append(("book", {"timestamp": 7, "bids": [level], "asks": [["3", "1"]]}))
        found.append(("book:5", {"timestamp": bad, "bids": [["1", "1"]], "asks": [["3", "1"]]}))
    return found


def test_absurd_values_raise_what_is_caught_or_are_rejected_within_a_second_each():
    outcomes = set()
    for channel, data in absurd_data():
        began = time.process_time()
        try:
            events = reject_out_of_bounds(read(channel, numbered=True)(data, 9))
        except CAUGHT:
            outcomes.add("raised")
            continue
        finally:
            assert time.process_time() - began < 1, f"{channel}: {str(data)[:80]}"
        for event in events:
            outcomes.add(getattr(event, "rule", event.type))
            assert len(encode(event)) < 2000
            assert event.time.year < 2263

    assert {"trade", "ticker", "quote", "bar", "book", "incomplete", "out_of_bounds"} <= outcomes
