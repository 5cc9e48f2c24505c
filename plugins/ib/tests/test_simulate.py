"""The simulated gateway sends what the protocol documents. It needs no simulator."""

from __future__ import annotations

import struct
from decimal import Decimal
from types import SimpleNamespace

import pytest
from tapeloom.symbols import Symbol
from tapeloom_ib.simulator import simulate
from tapeloom_simulator.server_api import (
    BookSnapshot,
    Framing,
    HttpRequest,
    MarketBar,
    MarketStep,
    MarketTrade,
    TopOfBook,
)

NANO = 1_000_000_000
NOW = 1_795_339_800 * NANO
CONTRACT = "0|AAPL|STK||0.0|||SMART||USD||"


class SimulatedInstrument:
    """A symbol with a fixed past."""

    tick, lot, last_update_id = Decimal("0.01"), Decimal(1), 1

    def __init__(self, symbol):
        self.symbol, self.parsed_symbol = symbol, Symbol.parse(symbol)
        self.rows = [(19011, 300), (19010, 5)], [(19013, 200), (19014, 7)]
        self.all_trades = [
            MarketTrade(1, 19012, 100, True, NOW, 1),
            MarketTrade(2, 19011, 3, False, NOW + 1, 2),
        ]

    def top_of_book(self):
        (bid, ask) = self.rows[0][0], self.rows[1][0]
        return TopOfBook(*bid, *ask)

    def book_snapshot(self, depth, lag=0):
        return BookSnapshot(self.last_update_id, self.rows[0][:depth], self.rows[1][:depth])

    def bar(self, interval, ts):
        return MarketBar(NOW - 5 * NANO, NOW, 19010, 19014, 19009, 19012, 40, 760_480, trades=3)

    def bars(self, interval, since, until, limit):
        return [self.bar(interval, until)]

    def first_trade_since(self, ts):
        return next((fill for fill in self.all_trades if fill.ts >= ts), None)

    def trades(self, first, limit):
        return [fill for fill in self.all_trades if fill.id >= first][:limit]


class Line:
    """What a client's connection is to the venue's side."""

    def __init__(self):
        self.counts_as_open, self.subscriptions, self.closed, self.acts = True, [], None, []

    def subscribe(self, stream, before="", after=""):
        self.subscriptions.append(stream)

    def unsubscribe(self, stream):
        self.subscriptions.remove(stream)

    def close(self, code, reason=""):
        self.closed = reason

    def call_later(self, seconds, act):
        self.acts.append((seconds, act))


@pytest.fixture
def side():
    pits = {
        symbol: SimulatedInstrument(symbol)
        for symbol in ("AAPL/USD", "EUR/USD", "BTC/USD", "B1/USD", "B2/USD", "B3/USD")
    }
    market = SimpleNamespace(instruments=pits, now=NOW, venue_clock=NOW, epoch=NOW)
    return simulate(market)


def dial(side, client=7):
    session = side.open_connection(HttpRequest(method="", path=""), Line())
    greeting = ask(session, "v157..178")
    started = ask(session, f"71|2|{client}||")
    return session, greeting, started


def ask(session, text):
    """Send fields that are parted by bars; return the answers in the same form."""
    return [message.replace("\0", "|") for message in session.receive(text.replace("|", "\0"))]


def test_a_client_is_greeted_with_the_state_of_the_farms(side):
    session, greeting, started = dial(side)

    assert greeting == ["178|20261122 09:30:00 EST|"]
    assert started[:3] == [
        "15|1|DU1234567|",
        "9|1|1|",
        "4|2|-1|2104|Market data farm connection is OK:usfarm||",
    ]
    assert ask(session, "61|1|") == ["62|1|"]
    assert ask(session, "49|1|") == [f"49|1|{NOW // NANO}|"]


def test_messages_are_read_from_any_split_of_the_bytes(side):
    assert isinstance(side, Framing)
    data = b"API\0" + side.frame("v157..178") + side.frame("71\x002\x007\0\0")
    for size in (1, 3, len(data)):
        take, texts = side.new_unframer(), []
        for place in range(0, len(data), size):
            texts += take(data[place : place + size])
        assert texts == ["v157..178", "71\x002\x007\0\0"]
    with pytest.raises(ValueError, match="must start with API"):
        side.new_unframer()(b"GET / HTTP/1.1")
    with pytest.raises(ValueError, match="is too long"):
        side.new_unframer()(b"API\0" + struct.pack(">I", 1 << 30))


def test_a_client_id_is_taken_while_its_connection_counts(side):
    first, _, _ = dial(side)
    second, _, refused = dial(side)
    first.line.counts_as_open = False
    _, _, welcome = dial(side)

    assert refused[0].startswith("4|2|-1|326|")
    assert second.line.closed
    assert welcome[0].startswith("15|")


def test_contract_details_have_every_field(side):
    session, *_ = dial(side)
    details, end = ask(session, f"9|8|1|{CONTRACT}|0|||")
    unknown = ask(session, "9|8|2|0|NOPE|STK||0.0|||SMART||USD|||0||||")

    # As many fields as protocol version 178 has; ib_async drops the message at one more or less.
    assert details.startswith("10|1|AAPL|STK||0||SMART|USD|AAPL|AAPL|AAPL|265598|0.01|")
    assert details.count("|") == 40
    assert end == "52|1|1|"
    assert unknown == ["4|2|2|200|No security definition has been found for the request||"]


def test_ticks_are_in_whole_seconds(side):
    session, *_ = dial(side)
    assert ask(session, f"97|4|{CONTRACT}|AllLast|0|0|") == []
    assert ask(session, f"97|5|{CONTRACT}|BidAsk|0|0|") == []
    trades, quotes = session.line.subscriptions
    pit = trades.instrument
    step = MarketStep("AAPL/USD", NOW + 5, pit.all_trades, 1, 1, pit.top_of_book())

    assert [message.replace("\0", "|") for message in trades.encode_step(step)] == [
        f"99|4|2|{NOW // NANO}|190.12|100|0|NASDAQ||",
        f"99|4|2|{NOW // NANO}|190.11|3|0|NASDAQ||",
    ]
    assert [message.replace("\0", "|") for message in quotes.encode_step(step)] == [
        f"99|5|3|{NOW // NANO}|190.11|190.13|300|200|0|"
    ]
    assert ask(session, "98|4|") == []
    assert session.line.subscriptions == [quotes]
    assert ask(session, "98|4|")[0].startswith("4|2|4|300|")


def test_bars_depend_on_the_type_of_the_contract(side):
    session, *_ = dial(side)
    coin, pair = "0|BTC|CRYPTO||0.0|||PAXOS||USD||", "0|EUR|CASH||0.0|||IDEALPRO||USD||"
    assert ask(session, f"50|3|1|{coin}|5|TRADES|0||")[0].startswith("4|2|1|10299|")
    assert ask(session, f"50|3|2|{pair}|5|TRADES|0||")[0].startswith("4|2|2|162|")
    assert ask(session, f"50|3|3|{CONTRACT}|10|TRADES|0||")[0].startswith("4|2|3|321|")
    assert ask(session, f"50|3|4|{CONTRACT}|5|TRADES|0||") == []
    assert ask(session, f"50|3|5|{pair}|5|MIDPOINT|0||") == []
    traded, middle = session.line.subscriptions

    assert traded.encode_tick(NOW)[0].replace("\0", "|") == (
        f"50|3|4|{NOW // NANO - 5}|190.10|190.14|190.09|190.12|40|190.12000000|3|"
    )
    assert middle.encode_tick(NOW)[0].replace("\0", "|") == (
        f"50|3|5|{NOW // NANO - 5}|190.12|190.12|190.12|190.12|-1|-1|-1|"
    )


def test_depth_is_sent_in_full_and_then_row_by_row(side):
    session, *_ = dial(side)
    assert ask(session, f"10|5|6|{CONTRACT}|5|0||")[0].startswith("4|2|6|10092|")
    filled = ask(session, f"10|5|6|{CONTRACT}|2|1||")
    (depth,) = session.line.subscriptions
    depth.instrument.rows = [(19012, 1), (19011, 300)], [(19013, 50)]
    step = MarketStep("AAPL/USD", NOW, [], 1, 3, None)

    assert filled == [
        "13|1|6|0|NASDAQ|0|1|190.11|300|1|",
        "13|1|6|1|NASDAQ|0|1|190.10|5|1|",
        "13|1|6|0|NASDAQ|0|0|190.13|200|1|",
        "13|1|6|1|NASDAQ|0|0|190.14|7|1|",
    ]
    assert [message.replace("\0", "|") for message in depth.encode_step(step)] == [
        "13|1|6|1|NASDAQ|2|1|0.00|0|1|",
        "13|1|6|0|NASDAQ|0|1|190.12|1|1|",
        "13|1|6|1|NASDAQ|2|0|0.00|0|1|",
        "13|1|6|0|NASDAQ|1|0|190.13|50|1|",
    ]
    assert depth.encode_step(step) == []


def test_limits_are_those_of_a_hundred_lines(side):
    session, *_ = dial(side)
    ticks = [ask(session, f"97|{n}|{CONTRACT}|Last|0|0|") for n in range(6)]
    books = [ask(session, f"10|5|{10 + n}|{CONTRACT}|5|1||") for n in range(4)]

    assert [bool(message) for message in ticks] == [False] * 5 + [True]
    assert ticks[5][0].startswith("4|2|5|10190|")
    assert books[3][0].startswith("4|2|13|309|")
    assert ask(session, f"97|0|{CONTRACT}|Last|0|0|")[0].startswith("4|2|0|102|")


def test_history_equals_the_market(side):
    session, *_ = dial(side)
    ticks = ask(session, f"96|7|{CONTRACT}|0|20261122-09:30:00 UTC||1000|TRADES|0|0||")
    bars = ask(session, f"20|8|{CONTRACT}|0||5 secs|30 S|0|TRADES|2|0||")

    second = NOW // NANO
    assert ticks == [f"98|7|2|{second}|0|190.12|100|NASDAQ||{second}|0|190.11|3|NASDAQ||1|"]
    assert bars == [f"17|8|||1|{second - 5}|190.10|190.14|190.09|190.12|40|190.12000000|3|"]
    assert ask(session, "91|1|") == ["93|1|1|0|0.01|"]
    assert ask(session, "82|") == ["80|1|NASDAQ|STK|NASDAQ|Deep2|1|"]


def test_invalid_requests_are_answered_with_an_error(side):
    session, *_ = dial(side)

    assert ask(session, "4711|1|")[0].startswith("4|2|-1|505|")
    assert ask(session, "97|9|")[0].startswith("4|2|9|320|")
    assert ask(session, "")[0].startswith("4|2|-1|505|")
    assert session.refuse("97\x009\0")[0].startswith("4\x002\x009\x00321\0")


@pytest.mark.parametrize("fault", ["ib_1101", "ib_1102", "ib_2103", "ib_1100"])
def test_an_outage_stops_all_data_and_ends_with_or_without_the_subscriptions(side, fault):
    session, *_ = dial(side)
    ask(session, f"97|4|{CONTRACT}|Last|0|0|")
    (stream,) = session.line.subscriptions
    step = MarketStep("AAPL/USD", NOW, stream.instrument.all_trades, 1, 0, None)
    assert stream.encode_step(step)
    said = side.corrupt(fault, stream, "x")

    assert said[0].split("\0")[3] == ("2103" if fault == "ib_2103" else "1100")
    assert stream.encode_step(step) == ()
    if fault == "ib_1100":
        assert not session.line.acts
        return
    ((seconds, act),) = session.line.acts
    code = act()[0].split("\0")[3]
    assert (seconds, code) == (5.0, {"ib_2103": "2104"}.get(fault, fault[3:]))
    assert bool(session.line.subscriptions) is (fault != "ib_1101")
    assert stream.encode_step(step)


def test_a_fault_of_one_stream_does_not_affect_the_others(side):
    session, *_ = dial(side)
    ask(session, f"97|4|{CONTRACT}|Last|0|0|")
    ask(session, f"10|5|6|{CONTRACT}|2|1||")
    trades, depth = session.line.subscriptions
    tick = trades.encode_step(
        MarketStep("AAPL/USD", NOW, trades.instrument.all_trades[:1], 1, 0, None)
    )[0]

    reset = side.corrupt("ib_317", depth, "x")
    assert reset[0].startswith("4\x002\x006\x00317\0")
    assert len(reset) == 5
    assert side.corrupt("ib_317", trades, tick) is None
    assert [text.split("\0")[4:7] for text in side.corrupt("ib_halt", trades, tick)[:2]] == [
        ["0", "0", "1"]
    ] * 2
    assert side.corrupt("ib_sentinel", trades, tick)[0].split("\0")[4:6] == ["-1", "0"]
    assert (
        len(side.corrupt("missing_fields", trades, tick)[0].split("\0"))
        == len(tick.split("\0")) - 1
    )
    assert side.corrupt("ib_10197", trades, tick)[0].startswith("4\x002\x004\x0010197\0")
    assert trades.encode_tick(NOW) == ()
    session.line.acts[-1][1]()
    assert session.line.subscriptions == [depth]
