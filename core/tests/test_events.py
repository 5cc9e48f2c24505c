"""Event classes: times as integers and datetimes, derived properties, fields, equality."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tapeloom import Bar, Book, Gap, Quote, Reject, Status, Ticker, Trade
from tapeloom.events import BY_TYPE, BaseEvent, Event, event_class, utc

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ONE = Decimal(1)


def bar(**changes: Any) -> Bar:
    fields: dict[str, Any] = {
        "open": ONE,
        "high": ONE,
        "low": ONE,
        "close": ONE,
        "volume": Decimal(4),
        "quote_volume": Decimal(6),
        "buy_volume": ONE,
        "buy_quote_volume": ONE,
        "trades": 2,
    }
    return Bar("acme", "BTC/USD", 60_000_000_000, 61_000_000_000, "1m", **{**fields, **changes})


@given(st.integers(0, 2**63 - 1))
def test_a_time_is_exact_to_the_microsecond_and_truncated_below(ts: int) -> None:
    moment = utc(ts)

    assert moment.tzinfo is UTC
    assert (moment - EPOCH) // timedelta(microseconds=1) == ts // 1000


def test_times_are_also_available_as_utc_datetimes() -> None:
    trade = Trade("acme", "BTC/USD", 1_500_000_000, 2_000_000_000, ONE, ONE)

    assert trade.time == datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    assert trade.received == datetime(1970, 1, 1, 0, 0, 2, tzinfo=UTC)


def test_a_bar_has_its_start_as_a_datetime_and_its_vwap() -> None:
    assert bar().timestamp == datetime(1970, 1, 1, 0, 1, tzinfo=UTC)
    assert bar().vwap == Decimal("1.5")
    assert bar(volume=Decimal(0), quote_volume=Decimal(0)).vwap is None
    assert bar(volume=Decimal("0.00")).vwap is None


def test_levels_are_converted_to_exact_decimals_when_they_are_read() -> None:
    book = Book("acme", "BTC/USD", 1, 2, "snapshot", [("1.50", "0.10")], [["2", "0"]])

    assert [tuple(map(str, level)) for level in book.bids] == [("1.50", "0.10")]
    assert book.asks == [(Decimal(2), Decimal(0))]
    assert book.raw_bids == [("1.50", "0.10")]


@pytest.mark.parametrize("cls", BY_TYPE.values(), ids=BY_TYPE)
def test_every_event_has_the_same_first_fields_a_channel_and_no_dict(cls: type[Any]) -> None:
    names = [field.name for field in attrs.fields(cls)]

    assert names[:4] == ["venue", "symbol", "ts", "recv"]
    assert "channel" in names
    assert BY_TYPE[cls.type] is cls
    assert not hasattr(cls.__new__(cls), "__dict__")


def test_events_are_equal_by_value_and_by_type() -> None:
    trade = Trade("acme", "BTC/USD", 1, 2, Decimal("1.0"), ONE, "buy", 7)

    assert trade == Trade("acme", "BTC/USD", 1, 2, Decimal("1.00"), ONE, "buy", 7)
    assert trade != Trade("acme", "BTC/USD", 1, 2, Decimal("1.0"), ONE, "sell", 7)
    assert Status("a", "", 1, 2, "x") != Reject("a", "", 1, 2, "x", "")


def test_the_positions_of_the_fields_are_fixed() -> None:
    assert Trade("v", "s", 1, 2, ONE, ONE, "buy", 3, "c", "live").channel == "c"
    assert Quote("v", "s", 1, 2, ONE, ONE, ONE, ONE, 9).sequence == 9
    assert Book("v", "s", 1, 2, "delta", (), (), 3, 4, 2, 50).depth == 50
    assert Ticker("v", "s", 1, 2, ONE, ONE, ONE, ONE, ONE, ONE, 5).trades == 5
    assert Gap("v", "s", 2, 3, 1, 2, "disconnect", 7, "filled", "trades").missing == 7
    assert Reject("v", "s", 1, 2, "rule", "evidence", None, "c").channel == "c"
    assert Status("v", "s", 1, 2, "live", "detail", "c").channel == "c"


TWO = Decimal(2)
BAR = Bar("acme", "A/B", 1, 2, "1m", ONE, TWO, ONE, ONE, ONE, None, None, None, 3, channel="klines")


@pytest.mark.parametrize(
    ("event", "same", "other"),
    [
        (
            Trade("acme", "A/B", 1, 2, ONE, ONE, "buy", 7),
            {"recv": 9, "origin": "backfill"},
            {"id": 8},
        ),
        (Trade("acme", "A/B", 1, 2, ONE, ONE, "buy"), {"recv": 9}, {"size": TWO}),
        (Quote("acme", "A/B", 1, 2, ONE, ONE, TWO, ONE), {"recv": 9}, {"ask_size": TWO}),
        (Quote("acme", "A/B", 1, 2, ONE, ONE, TWO, ONE, 5), {"recv": 9}, {"sequence": 6}),
        (Book("acme", "A/B", 1, 2, "delta", [["1", "2"]], [], 4, 5), {"recv": 9}, {"last_id": 6}),
        (Book("acme", "A/B", 1, 2, "delta", [["1", "2"]], []), {"recv": 9}, {"raw_asks": [["2", "1"]]}),
        (BAR, {"recv": 9, "origin": "backfill"}, {"close": TWO}),
        (Ticker("acme", "A/B", 1, 2, ONE, None, None, None, TWO, None), {"recv": 9}, {"last": TWO}),
        (Gap("acme", "A/B", 5, 6, 1, 5, "stall", after_id=3), {"until": 8, "state": "filled"}, {"after_id": 4}),
        (Reject("acme", "A/B", 1, 2, "price", "-1"), {"recv": 9}, {"rule": "size"}),
        (Status("acme", "A/B", 1, 2, "live"), {"recv": 9}, {"state": "ended"}),
    ],
    ids=lambda value: getattr(value, "type", None),
)  # fmt: skip
def test_an_identity_is_the_same_wherever_the_event_was_received(
    event: Event, same: dict[str, Any], other: dict[str, Any]
) -> None:
    assert attrs.evolve(event, **same).identity == event.identity
    assert attrs.evolve(event, **other).identity != event.identity
    assert len({event.identity, attrs.evolve(event, venue="other").identity}) == 2


def test_only_what_the_next_event_replaces_is_a_state() -> None:
    quote = Quote("acme", "A/B", 1, 2, ONE, ONE, TWO, ONE)
    book = Book("acme", "A/B", 1, 2, "snapshot", [], [])
    states = [quote, book, Ticker("acme", "A/B", 1, 2, ONE, None, None, None, None, None)]

    assert all(event.is_state for event in states)
    assert not attrs.evolve(book, kind="delta").is_state
    assert not Trade("acme", "A/B", 1, 2, ONE, ONE).is_state
    assert not BAR.is_state


def test_the_identity_of_a_plugins_own_event_is_all_that_it_says() -> None:
    @event_class
    class Funding(BaseEvent):
        type = "identity_funding"
        venue: str
        symbol: str
        ts: int
        recv: int
        rate: Decimal
        channel: str = "funding"

    funding = Funding("acme", "A/B", 1, 2, ONE)

    assert funding.identity == attrs.evolve(funding, recv=3).identity
    assert funding.identity != attrs.evolve(funding, rate=TWO).identity
