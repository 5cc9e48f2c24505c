"""Events as lines of JSON: encoding loses nothing, and decoding rejects what is not an event."""

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
from tapeloom.events import BY_TYPE, GapCause, GapState, Origin

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
    st.builds(Quote, *head, *([st.none() | numbers] * 4), maybe, texts, origins),
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
        st.sampled_from(get_args(GapCause)),
        maybe,
        st.sampled_from(get_args(GapState)),
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
def test_an_event_is_equal_after_encoding_and_decoding(event: Event) -> None:
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
def test_a_number_is_encoded_with_the_digits_of_the_venue(text: str) -> None:
    quote = Quote("acme", "X/Y", 1, 2, Decimal(text), Decimal(1), Decimal(text), Decimal(1))

    assert json.loads(encode(quote))["bid"] == text


def test_an_empty_side_of_a_quote_is_null() -> None:
    quote = Quote("acme", "X/Y", 1, 2, Decimal(1), Decimal(2), None, None)
    fields = json.loads(encode(quote))

    assert (fields["bid"], fields["ask"], fields["ask_size"]) == ("1", None, None)
    assert decode(encode(quote)) == quote


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_nan_and_infinity_are_encoded_and_decoded(text: str) -> None:
    back = decode(encode(Trade("acme", "X/Y", 1, 2, Decimal(text), Decimal(1))))

    assert isinstance(back, Trade)
    assert str(back.price) == text


def test_an_id_keeps_its_type() -> None:
    trades = [Trade("a", "X/Y", 1, 2, Decimal(1), Decimal(1), None, id) for id in (7, "7", 2**63)]  # noqa: A001

    assert [decode(encode(trade)).id for trade in trades] == [7, "7", 2**63]  # type: ignore[union-attr]


def test_levels_in_decimal_are_equal_after_decoding() -> None:
    book = Book("a", "X/Y", 1, 2, "snapshot", [(Decimal("1.50"), Decimal(2))], ())
    back = decode(encode(book))

    assert isinstance(back, Book)
    assert back.bids == book.bids
    assert back.asks == []


def test_the_keys_of_books_and_bars_in_json() -> None:
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
def test_a_line_that_is_not_an_event_is_a_value_error(line: str | bytes) -> None:
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
def test_a_field_of_the_wrong_type_is_a_value_error(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected an event as JSON"):
        decode(other(**fields))


def test_an_unknown_cause_or_state_of_a_gap_is_a_value_error() -> None:
    gap = json.loads(encode(Gap("a", "X/Y", 2, 3, 1, 2, "stall")))

    assert decode(json.dumps(gap)) == Gap("a", "X/Y", 2, 3, 1, 2, "stall")
    for field in ("cause", "state"):
        with pytest.raises(ValueError, match="expected an event as JSON"):
            decode(json.dumps({**gap, field: "weather"}))


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
def test_decoding_arbitrary_input_raises_only_value_error(line: str | bytes) -> None:
    with pytest.raises(ValueError):
        decode(line)


def test_there_are_eight_event_types_of_core_in_json() -> None:
    of_core = {name for name, cls in BY_TYPE.items() if cls.__module__.startswith("tapeloom.")}

    assert of_core == {"trade", "quote", "book", "bar", "ticker", "gap", "reject", "status"}


@pytest.mark.parametrize("text", ["1E-999999", "1E+999999", "-2.5E-41", "0E-999999", "0E+999999"])
def test_a_number_of_few_digits_is_encoded_in_few_characters(text: str) -> None:
    number = Decimal(text)
    line = encode(Trade("acme", "X/Y", 1, 2, number, number))
    back = decode(line)

    assert len(line) < 300
    assert isinstance(back, Trade)
    assert back.price.as_tuple() == number.as_tuple()
