"""Events as lines: every digit comes back, nothing else comes in."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any, get_args

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom import Bar, Book, Event, Gap, Quote, Reject, Status, Ticker, Trade, decode, encode
from tapeloom.events import BY_TYPE, Origin

texts = st.text(max_size=12)
times = st.integers(0, 2**62)
maybe = st.none() | st.integers(0, 2**62)
numbers = st.builds(
    lambda sign, digits, scale: Decimal(f"{sign}{digits}").scaleb(-scale),
    st.sampled_from(["", "-"]),
    st.integers(0, 10**24),
    st.integers(-6, 18),
)
digits = numbers.map(lambda number: format(number, "f"))
levels = st.lists(st.tuples(digits, digits).map(list), max_size=3)
origins = st.sampled_from(get_args(Origin))

head = (texts, texts, times, times)
plain = st.one_of(
    st.builds(
        Trade,
        *head,
        numbers,
        numbers,
        st.sampled_from(["buy", "sell", None]),
        st.integers() | texts,
        texts,
        origins,
    ),
    st.builds(Quote, *head, numbers, numbers, numbers, numbers, maybe, texts, origins),
    st.builds(
        Book,
        *head,
        st.sampled_from(["snapshot", "delta"]),
        levels,
        levels,
        maybe,
        maybe,
        maybe,
        st.integers(0, 1000),
        texts,
        origins,
    ),
    st.builds(
        Bar,
        *head,
        st.sampled_from(["1s", "1m"]),
        *([numbers] * 8),
        st.integers(0, 9),
        st.booleans(),
        st.booleans(),
        st.integers(0, 3),
        texts,
        origins,
    ),
    st.builds(Ticker, *head, *([numbers] * 6), maybe, texts, origins),
    st.builds(
        Gap,
        *head,
        times,
        times,
        texts,
        maybe,
        st.sampled_from(["open", "filled", "partial", "unrecoverable"]),
        texts,
    ),
    st.builds(Status, *head, texts, texts, texts),
)
rejects = st.builds(Reject, *head, texts, texts, st.none() | plain, texts)
events = plain | rejects | st.builds(Reject, *head, texts, texts, rejects, texts)


def spelled(event: Event) -> list[str]:
    """Return every field as it is written, so that 1.50 is not 1.5."""
    return [repr(value) for value in attrs.astuple(event)]


def positional(value: Decimal) -> Decimal:
    return Decimal(format(value, "f"))


@settings(max_examples=250)
@given(events)
def test_an_event_comes_back_as_it_was(event: Event) -> None:
    line = encode(event)
    back = decode(line)

    assert "\n" not in line
    assert type(back) is type(event)
    assert back == event
    assert encode(back) == line
    assert decode(line.encode()) == event


@settings(max_examples=100)
@given(numbers)
def test_every_digit_is_kept_and_no_exponent_is_written(number: Decimal) -> None:
    line = encode(Trade("acme", "BTC/USD", 1, 2, number, Decimal("1E-9")))
    price = json.loads(line)["price"]
    back = decode(line)

    assert re.fullmatch(r"-?\d+(\.\d+)?", price)
    assert isinstance(back, Trade)
    assert back.price.as_tuple() == positional(number).as_tuple()
    if number.as_tuple().exponent <= 0:  # type: ignore[operator]
        assert back.price.as_tuple() == number.as_tuple()
    assert json.loads(line)["size"] == "0.000000001"


@pytest.mark.parametrize("text", ["0.00", "-0", "1.50", "100", "0.1000000000000000000000000001"])
def test_the_text_of_the_venue_is_the_text_on_the_line(text: str) -> None:
    quote = Quote("acme", "X/Y", 1, 2, Decimal(text), Decimal(1), Decimal(text), Decimal(1))

    assert json.loads(encode(quote))["bid"] == text


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_survives_too(text: str) -> None:
    back = decode(encode(Trade("acme", "X/Y", 1, 2, Decimal(text), Decimal(1))))

    assert isinstance(back, Trade)
    assert str(back.price) == text


def test_an_id_stays_a_number_or_a_name() -> None:
    made = [Trade("a", "X/Y", 1, 2, Decimal(1), Decimal(1), None, id) for id in (7, "7", 2**63)]  # noqa: A001

    assert [decode(encode(one)).id for one in made] == [7, "7", 2**63]  # type: ignore[union-attr]


def test_levels_in_decimal_come_back_as_the_same_numbers() -> None:
    book = Book("a", "X/Y", 1, 2, "snapshot", [(Decimal("1.50"), Decimal(2))], ())
    back = decode(encode(book))

    assert isinstance(back, Book)
    assert back.bids == book.bids
    assert back.asks == []


def test_the_lines_say_what_the_field_calls_it() -> None:
    book = json.loads(encode(Book("a", "X/Y", 1, 2, "delta", [("1", "2")], [("3", "4")], 5, 6)))
    bar = json.loads(
        encode(Bar("a", "X/Y", 60_000_000_000, 2, "1m", *([Decimal(1)] * 8), trades=3))
    )

    assert (book["type"], book["bids"], book["asks"]) == ("book", [["1", "2"]], [["3", "4"]])
    assert bar["timestamp"] == "1970-01-01T00:01:00Z"
    assert list(bar)[:4] == ["type", "venue", "symbol", "timestamp"]


TRADE = json.loads(encode(Trade("a", "X/Y", 1, 2, Decimal(1), Decimal(1))))


def other(**fields: Any) -> str:
    return json.dumps({**TRADE, **fields})


@pytest.mark.parametrize(
    "line",
    [
        "",
        "garbage",
        "{",
        "null",
        "7",
        "[]",
        '"trade"',
        "{}",
        '{"type": "trade"}',
        other(type="trades"),
        other(type=None),
        other(type=["trade"]),
        other(type={}),
        other(colour="red"),
        other(price="much"),
        other(price=""),
        other(price=[1]),
        other(price={}),
        json.dumps({k: v for k, v in TRADE.items() if k != "price"}),
        b"\xff\xfe",
        "[" * 100_000,
        '{"type": "reject", "event": {"type": "x"}}',
        '{"type": "reject", "event": 7}',
        '{"type": "book", "venue": "a"}',
    ],
)
def test_garbage_is_a_value_error(line: str | bytes) -> None:
    with pytest.raises(ValueError, match="expected an event as JSON"):
        decode(line)


@pytest.mark.parametrize(
    "fields",
    [
        {"price": None},
        {"price": 1.5},
        {"price": True},
        {"ts": "1"},
        {"ts": 1.5},
        {"ts": None},
        {"recv": "soon"},
        {"symbol": 7},
        {"venue": None},
        {"side": "up"},
        {"id": [1]},
    ],
)
def test_a_field_of_another_type_is_a_value_error(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected an event as JSON"):
        decode(other(**fields))


@settings(max_examples=100)
@given(
    st.text()
    | st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.integers() | texts,
        lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
        max_leaves=5,
    ).map(json.dumps)
)
def test_nothing_but_a_value_error_is_raised(line: str | bytes) -> None:
    with pytest.raises(ValueError):
        decode(line)


def test_every_type_of_event_has_a_wire_form() -> None:
    assert set(BY_TYPE) == {"trade", "quote", "book", "bar", "ticker", "gap", "reject", "status"}
