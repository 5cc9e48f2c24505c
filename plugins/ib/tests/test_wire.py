"""Messages of the gateway are parsed into events with all digits; invalid ones affect no others."""

from __future__ import annotations

import asyncio
import json
import os
import struct
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ib_async import Contract
from tapeloom.events import encode
from tapeloom.plugin import Feed
from tapeloom.plugin.bounds import reject_out_of_bounds
from tapeloom_ib import Settings
from tapeloom_ib.pacing import Pacing
from tapeloom_ib.session import Session
from tapeloom_ib.wire import BookRows, SubscriptionState, parse

NANO = 1_000_000_000
D = Decimal


class Stopped:
    def time_ns(self):
        return 7

    def monotonic(self):
        return 0.0

    async def sleep(self, seconds):
        raise AssertionError("nothing here waits")


def line(channel, **more):
    rows = BookRows(int(channel[5:])) if channel.startswith("book:") else None
    return SubscriptionState("ib", "AAPL/USD", channel, Contract(), rows, **more)


def events(channel, *messages, **more):
    subscription = line(channel, **more)
    return [
        event for text in messages for event in parse({"7": subscription}, text.split("|"), 9)[1]
    ]


def test_a_trade_keeps_its_digits_and_has_neither_id_nor_side():
    (trade,) = events("trades", "99|7|1|1795339801|190.120|0.10000000|0|NASDAQ| T I")

    assert (str(trade.price), str(trade.size)) == ("190.120", "0.10000000")
    assert (trade.ts, trade.recv, trade.id, trade.side) == (1795339801 * NANO, 9, "", None)


def test_a_quote_has_both_sides():
    (quote,) = events("quotes", "99|7|3|1795339801|190.11|190.13|300|200|0")

    assert (quote.bid, quote.ask) == (D("190.11"), D("190.13"))
    assert (quote.bid_size, quote.ask_size) == (300, 200)


def test_a_bar_has_its_start_as_time_and_is_closed():
    (bar,) = events("klines:5s", "50|3|7|1795339805|190.11|190.14|190.10|190.12|1834|190.121|23")

    assert (bar.ts, bar.interval, bar.closed, bar.origin) == (1795339805 * NANO, "5s", True, "live")
    assert (bar.open, bar.high, bar.low, bar.close) == (
        D("190.11"),
        D("190.14"),
        D("190.10"),
        D("190.12"),
    )
    assert (bar.volume, bar.trades, bar.vwap) == (1834, 23, D("190.121"))


def test_a_bar_of_quotes_has_no_volume():
    (bar,) = events("klines:5s", "50|3|7|1795339805|1.5|1.6|1.4|1.55|-1|-1|-1")

    assert (bar.volume, bar.trades, bar.vwap) == (0, 0, None)


def test_halts_and_placeholders_are_not_trades():
    halted, live = events("trades", "99|7|1|5|0|0|1||", "99|7|1|6|0|0|0||")
    (nothing,) = events("trades", "99|7|1|5|-1|0|0||")
    (below,) = events("trades", "99|7|1|5|-37.63|2|0||")

    assert [halted.state, live.state] == ["halted", "live"]
    assert nothing.rule == "no_value"
    assert below.price == D("-37.63")  # oil has had such prices


def test_a_placeholder_in_a_quote_is_an_empty_side():
    no_bid, no_ask = events("quotes", "99|7|3|5|-1|190.13|0|200|0", "99|7|3|5|190.11|0|300|0|0")

    assert (no_bid.bid, no_bid.bid_size, no_bid.ask, no_bid.ask_size) == (
        None,
        None,
        D("190.13"),
        200,
    )
    assert (no_ask.bid, no_ask.bid_size, no_ask.ask, no_ask.ask_size) == (
        D("190.11"),
        300,
        None,
        None,
    )


def test_an_empty_side_of_level_1_stays_empty_until_its_next_price():
    quotes = events("quotes", "1|6|7|1|190.11|300|0", "1|6|7|2|190.13|200|0", "1|6|7|1|-1|0|0",
                    "2|6|7|0|50", "1|6|7|1|190.10|70|0", top={})  # fmt: skip

    assert [(q.bid, q.bid_size) for q in quotes] == [
        (D("190.11"), 300),
        (None, None),
        (None, None),
        (D("190.10"), 70),
    ]
    assert {(q.ask, q.ask_size) for q in quotes} == {(D("190.13"), 200)}


def test_level_1_gives_a_quote_once_all_fields_came():
    event = events("quotes", "1|6|7|1|190.11|300|0", "1|6|7|2|190.13|200|0", "2|6|7|0|50",
                 "1|6|7|4|190.12|9|0", top={})  # fmt: skip

    assert [(q.bid_size, q.ask_size) for q in event] == [(300, 200), (50, 200)]


def test_unrequested_data_gives_no_event():
    assert parse({}, ["99", "8", "1", "5", "1", "1", "0", "", ""], 9) == (None, [])


@pytest.mark.parametrize(
    ("channel", "text"),
    [
        ("trades", "99|7|1|5|x|1|0||"),
        ("trades", "99|7|1|5|NaN|1|0||"),
        ("trades", "99|7|1|5|1"),
        ("trades", "99|7|3|5|1|2|3|4|0"),
        ("trades", "99|7"),
        ("quotes", "99|7|3|5|3895.25|7|2|NASDAQ|Regular"),
        ("klines:5s", "50|3|7|x|1|1|1|1|1|1|1"),
        ("klines:5s", "50|3|7|5|1|1|1|1|1|1"),
        ("book:5", "12|1|7|3|0|1|1.5|3"),
        ("book:5", "12|1|7|0|9|1|1.5|3"),
        ("book:5", "12|1|7|0|0|2|1.5|3"),
        ("trades", "12|1|7|0|0|1|1.5|3"),
    ],
)
def test_an_invalid_message_raises(channel, text):
    with pytest.raises((ValueError, IndexError, KeyError, ArithmeticError)):
        events(channel, text)


# ------------------------------------------------------------------------------------------------ rows


def rows_of(*operations, mode="shift", depth=3):
    rows = BookRows(depth, mode)
    for position, operation, side, price, size in operations:
        rows.apply(position, operation, side, D(price), D(size))
    return rows.levels(1), rows.levels(0)


FILL = [(0, 0, 1, "9", "1"), (1, 0, 1, "8", "2"), (2, 0, 1, "7", "3")]


def test_an_insert_moves_rows_down_or_replaces_one():
    better = (0, 0, 1, "10", "4")

    assert rows_of(*FILL, better)[0] == [(10, 4), (9, 1), (8, 2)]
    assert rows_of(*FILL, better, mode="slot")[0] == [(10, 4), (8, 2), (7, 3)]


def test_rows_at_one_price_are_added_up():
    assert rows_of((0, 0, 0, "9", "1"), (1, 0, 0, "9.0", "2"), (2, 0, 0, "10", "5"))[1] == [
        (9, 3),
        (10, 5),
    ]


def test_rows_are_updated_and_deleted():
    assert rows_of(*FILL, (1, 1, 1, "8", "7"), (0, 2, 1, "0", "0"))[0] == [(8, 7), (7, 3)]


def test_a_book_out_of_order_or_crossed_is_not_valid():
    rows = BookRows(5)
    for position, side, price in ((0, 1, "9"), (1, 1, "8"), (0, 0, "10")):
        rows.apply(position, 0, side, D(price), D(1))
    assert rows.is_valid
    rows.apply(1, 1, 1, D("9.5"), D(1))
    assert not rows.is_valid
    rows.apply(1, 2, 1, D(0), D(0))
    assert rows.is_valid
    rows.apply(0, 1, 0, D("9"), D(1))
    assert not rows.is_valid


# ------------------------------------------------------- through ib_async's own reading of the socket


def framed(text):
    payload = text.replace("|", "\0").encode() + b"\0"
    return struct.pack(">I", len(payload)) + payload


GOOD = [
    "99|7|1|1795339801|190.12|100|0|NASDAQ| T I",
    "99|8|3|1795339801|190.11|190.13|300|200|0",
    "50|3|9|1795339805|190.11|190.14|190.10|190.12|1834|190.121|23",
    "99|7|1|1795339802|190.13|1|2|ARCA|",
]
BAD = [b"\0\0\0\x08upstream", framed("99|7|1"), framed("99|7|x|y|z"), framed("777|1"), framed("x"),
       struct.pack(">I", 3) + b"\xff\xfe\0", framed("13|1|7|0|A|0|1|x|y|1"), framed("17|1|2")]  # fmt: skip


def reading(blocks):
    """Return what a session makes of these reads of its socket."""

    async def run():
        feed = Feed("f", "ib", "", ["AAPL/USD"], ("trades",), clock=Stopped())
        session = Session(feed, Settings(), Pacing(15.0), 1)
        asked = session.subscriptions.by_request
        asked |= {"7": line("trades"), "8": line("quotes"), "9": line("klines:5s")}
        client = session._client
        client.connState, client._apiReady, client._serverVersion = client.CONNECTED, True, 178
        client.decoder.serverVersion = 178
        for block in blocks:
            client._onSocketHasData(block)
        return [event for batch in session._batches for event in batch]

    return asyncio.run(run())


def data(found):
    return [event for event in found if event.type in ("trade", "quote", "bar")]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 1), min_size=1, max_size=12), st.lists(st.integers(1, 40), max_size=12)
)
def test_neither_garbage_nor_the_split_into_reads_changes_the_events(mix, cuts):
    blocks, expected = b"", []
    for place, bad in enumerate(mix):
        if bad:
            blocks += BAD[place % len(BAD)]
        blocks += framed(GOOD[place % len(GOOD)])
        expected.append(GOOD[place % len(GOOD)])
    pieces, start = [], 0
    for cut in cuts:
        pieces.append(blocks[start : start + cut])
        start += cut
    whole, cut_up = reading([blocks]), reading([*pieces, blocks[start:]])

    assert len(data(whole)) == len(expected)
    assert whole == cut_up
    assert [event.rule for event in whole if event.type == "reject"] == ["unreadable_frame"] * sum(
        mix
    )


def test_a_message_of_gigabytes_ends_the_session():
    async def run():
        feed = Feed("f", "ib", "", ["AAPL/USD"], ("trades",), clock=Stopped())
        session = Session(feed, Settings(), Pacing(15.0), 1)
        client = session._client
        client.connState, client._apiReady, client._serverVersion = client.CONNECTED, True, 178
        client._onSocketHasData(b"\xff\xff\xff\xf0" + bytes(1 << 20))
        before = session._error
        client._onSocketHasData(bytes(16 << 20))
        return before, session._error

    before, error = asyncio.run(run())

    assert before is None
    assert "more than 16 MiB" in str(error)


def test_an_account_number_in_a_broken_message_is_not_shown():
    (portfolio,) = reading([framed("7|1|DU7654321")])
    (cut,) = reading([framed("99|7|DU7654321")])

    assert portfolio.evidence == "message 7, 3 fields"
    assert cut.evidence == "99 7 (account)"


def notices(*codes):
    return reading([framed(f"4|2|-1|{code}|{text}|") for code, text in codes])


def test_a_farm_is_restored_by_its_own_code_only():
    lost, other = (2103, "Market data farm connection is broken:usfarm"), (2106, "HMDS OK:ushmds")
    back = (2104, "Market data farm connection is OK:usfarm")

    assert [event.state for event in notices(lost, other)] == ["stale"]
    assert [event.state for event in notices(lost, other, back)] == ["stale", "connected"]
    assert [event.state for event in notices(back, other)] == []


def test_the_connection_is_restored_by_its_own_code_only():
    lost, farm, back = (1100, "lost"), (2104, "OK:usfarm"), (1102, "restored")

    assert [event.state for event in notices(lost, farm)] == ["stale"]
    assert [event.state for event in notices(lost, farm, back)] == ["stale", "connected"]
    assert [
        event.state for event in notices((2107, "inactive:euhmds"), (2119, "connecting:x"))
    ] == []
    assert [event.state for event in notices((100, "Max rate of messages per second"))] == [
        "notice"
    ]


# -------------------------------------------------------------------------------------------- captures


def captures():
    default = Path(__file__).parents[4] / "shared" / "data"
    return Path(os.environ.get("TAPELOOM_CAPTURES", default)) / "ib"


@pytest.mark.parametrize("name", ["tws_wire_realtime_samples", "tws_wire_historical"])
def test_every_recorded_message_is_parsed_or_rejected(name):
    path = captures() / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"no captures in {path.parent}; set TAPELOOM_CAPTURES")
    frames = [json.loads(text)["frame"] for text in path.read_text("utf-8").splitlines()]

    async def run(frame):
        feed = Feed("f", "ib", "", ["A/USD"], ("trades",), clock=Stopped())
        session = Session(feed, Settings(), Pacing(15.0), 1)
        fields = frame.split("\0")
        kind = {"99": "quotes" if fields[2] == "3" else "trades", "50": "klines:5s"}.get(
            fields[0], "book:5"
        )
        top = {} if fields[0] in ("1", "2") else None
        session.subscriptions.by_request["9000"] = line(
            "quotes" if top is not None else kind, top=top
        )
        client = session._client
        client.connState, client._apiReady, client._serverVersion = client.CONNECTED, True, 178
        client.decoder.serverVersion = 178
        payload = frame.encode()
        client._onSocketHasData(struct.pack(">I", len(payload)) + payload)
        return [
            event.type for batch in session._batches for event in batch if event.type != "status"
        ]

    found = [(frame.split("\0")[0], *asyncio.run(run(frame))) for frame in frames]
    if name == "tws_wire_historical":
        assert "reject" not in {kind for _, *kinds in found for kind in kinds}
    else:
        assert [kinds for number, *kinds in found if number == "50"] == [["bar"]]
        assert [kinds for number, *kinds in found if number in ("12", "13")][:2] == [
            ["book"],
            ["book"],
        ]
        # One of the samples carries the fields of a trade under the type of a quote.
        assert sorted(kind for number, *kinds in found if number == "99" for kind in kinds) == [
            "quote", "reject", "trade", "trade", "trade"]  # fmt: skip


# ------------------------------------------------------------------------------- absurd values

SAMPLES = [
    ("trades", "99|7|1|1795339801|190.120|0.10000000|0|NASDAQ| T I"),
    ("quotes", "99|7|3|1795339801|190.11|190.13|300|200|0"),
    ("klines:5s", "50||7|1678323335|4028.75|4029.00|4028.25|4028.50|2|4026.75|1"),
    ("book:5", "12||7|0|1|1|185.50|100"),
    ("book:5", "13||7|0|ISLAND|1|1|185.50|100|1"),
]
ABSURD = [
    "", "9" * 18, "9" * 4298, "9" * 5000, "-" + "9" * 4298, "1E-999999", "1E+999999", "0E-999999",
    "NaN", "sNaN", "NaN123", "-Infinity", "253402300800", "1e400", "0x10", "1_0", "٣", "\ud800",
    "\x1b]0;title\x07", "x" * 5000,
]  # fmt: skip


@pytest.mark.parametrize(("channel", "text"), SAMPLES)
def test_absurd_values_raise_what_a_parser_may_or_are_rejected(channel, text):
    outcomes = set()
    for index in range(len(text.split("|"))):
        for value in ABSURD:
            fields = text.split("|")
            if index not in (0, 1, 2) and fields[index] != "7":
                fields[index] = value
            subscription = line(channel, **({"top": {}} if channel == "quotes" else {}))
            try:
                state, found = parse({"7": subscription}, fields, 9)
                if state is not None and state.rows is not None:
                    found = [state.book(9)]
            except (ValueError, IndexError, ArithmeticError):
                outcomes.add("unreadable")
                continue
            for event in reject_out_of_bounds(found):
                outcomes.add(getattr(event, "rule", event.type))
                assert len(encode(event)) < 2000
                assert event.time.year < 2263

    assert "unreadable" in outcomes
    assert len(outcomes) > 1
