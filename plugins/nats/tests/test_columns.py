"""Events are the same after they were packed and unpacked: each value, its type and its digits."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom.events import BY_TYPE, Bar, Book, Event, Gap, Quote, Reject, Status, Ticker, Trade
from tapeloom_nats.columns import pack, unpack
from tapeloom_testing.contract.sinks.events import OwnEvent, sink_events

TEXT = st.text(max_size=8)
TIME = st.integers(0, 2**63 - 1)
#: Any int that 64 bits hold, and some that they do not.
NUMBER = st.integers(-(2**70), 2**70)
DECIMAL = st.decimals(allow_nan=False, allow_infinity=False)
ORIGIN = st.sampled_from(["live", "backfill"])
LEVELS = st.lists(
    st.lists(st.from_regex(r"[0-9]{1,5}\.[0-9]{0,3}", fullmatch=True), min_size=2, max_size=2)
)


def optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


HEAD = (TEXT, TEXT, TIME, TIME)
TRADES = st.builds(
    Trade,
    *HEAD,
    DECIMAL,
    DECIMAL,
    optional(st.sampled_from(["buy", "sell"])),
    NUMBER | TEXT,
    TEXT,
    ORIGIN,
)
QUOTES = st.builds(Quote, *HEAD, *[optional(DECIMAL)] * 4, optional(NUMBER), TEXT, ORIGIN)
BOOKS = st.builds(
    Book, *HEAD, st.sampled_from(["snapshot", "delta"]), LEVELS, LEVELS, *[optional(NUMBER)] * 3,
    st.integers(0, 5000), TEXT, ORIGIN,
)  # fmt: skip
BARS = st.builds(
    Bar, *HEAD, TEXT, *[DECIMAL] * 5, *[optional(DECIMAL)] * 3, optional(NUMBER), st.booleans(),
    st.booleans(), st.integers(0, 9), TEXT, ORIGIN,
)  # fmt: skip
TICKERS = st.builds(Ticker, *HEAD, *[optional(DECIMAL)] * 6, optional(NUMBER), TEXT, ORIGIN)
GAPS = st.builds(
    Gap, *HEAD, TIME, TIME, st.sampled_from(["sequence", "restart"]), optional(NUMBER),
    st.sampled_from(["open", "filled"]), TEXT, optional(NUMBER | TEXT), optional(NUMBER | TEXT),
)  # fmt: skip
STATUSES = st.builds(Status, *HEAD, TEXT, TEXT, TEXT)
REJECTS = st.builds(Reject, *HEAD, TEXT, TEXT, optional(TRADES | BOOKS), TEXT)
EVENTS = TRADES | QUOTES | BOOKS | BARS | TICKERS | GAPS | STATUSES | REJECTS


def exactly(event: Event) -> str:
    """Return a text in which 1, True and 1.0 differ, and each digit of a number counts."""
    return repr(event)


@settings(max_examples=60, deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=8))
def test_events_of_all_types_are_exact_and_in_order(events: list[Event]) -> None:
    assert list(map(exactly, unpack(pack(events)))) == list(map(exactly, events))


@settings(max_examples=60, deadline=None)
@given(st.lists(TRADES, min_size=1, max_size=8))
def test_events_of_one_type_are_exact_and_in_order(events: list[Event]) -> None:
    assert list(map(exactly, unpack(pack(events)))) == list(map(exactly, events))


def test_an_event_class_of_a_plugin_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    if OwnEvent.type not in BY_TYPE:
        monkeypatch.setitem(BY_TYPE, OwnEvent.type, OwnEvent)
    events: list[Any] = [
        OwnEvent("v", "A", number, 1, Decimal(f"-{number}.10"), ["x", None][number % 2], number > 3)
        for number in range(9)
    ]

    assert list(map(exactly, unpack(pack(events)))) == list(map(exactly, events))


def test_a_column_of_equal_values_is_stored_as_one() -> None:
    trades = [Trade("v", "A", 1, number, Decimal(1), Decimal(number)) for number in range(1000)]

    ((name, count, columns, indexes),) = msgspec.msgpack.decode(pack(trades))

    assert (name, count, indexes) == ("trade", 1000, None)
    assert columns["venue"] == ["v"]
    assert columns["origin"] == ["live"]
    assert len(columns["recv"]) == 1000


def test_half_a_surrogate_pair_is_kept() -> None:
    event = Status("v", "\ud800", 1, 1, "x")

    assert unpack(pack([event])) == [event]


def test_levels_of_decimals_are_the_same_numbers() -> None:
    book = Book("v", "A", 1, 1, "snapshot", [(Decimal("1.10"), Decimal("2E-9"))], [])

    (found,) = unpack(pack([book]))

    assert isinstance(found, Book)
    assert found.bids == book.bids


def test_a_field_that_is_missing_in_an_older_message_has_its_default() -> None:
    ((name, count, columns, indexes),) = msgspec.msgpack.decode(
        pack([Trade("v", "A", 1, 1, Decimal(1), Decimal(2), "buy", 3, "trades", "backfill")])
    )
    del columns["origin"]

    (found,) = unpack(msgspec.msgpack.encode([(name, count, columns, indexes)]))

    assert found == Trade("v", "A", 1, 1, Decimal(1), Decimal(2), "buy", 3, "trades", "live")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"not a batch",
        msgspec.msgpack.encode([("nothing", 1, {}, None)]),
        msgspec.msgpack.encode([("trade", 1, {"venue": ["v"]}, None)]),
        msgspec.msgpack.encode([("trade", 1, {"added_later": [1]}, None)]),
        msgspec.msgpack.encode([("trade", 2, [b"{}"], [0, 7])]),
        msgspec.msgpack.encode({}),
        msgspec.msgpack.encode([1]),
        msgspec.msgpack.encode([("trade", 1, 5, None)]),
    ],
)
def test_what_is_no_batch_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match="expected"):
        unpack(body)


@settings(deadline=None)
@given(st.binary(max_size=60), st.integers(0, 400))
def test_a_damaged_body_is_a_value_error_or_other_events(noise: bytes, place: int) -> None:
    body = bytearray(pack(sink_events(4)))
    body[place : place + len(noise)] = noise
    try:
        found = unpack(bytes(body))
    except ValueError:
        return
    assert isinstance(found, list)
