from __future__ import annotations

import random
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom.events import Book
from tapeloom_books import LocalBook
from tapeloom_books.ladder import Ladder, PriceTooLongError


def event(bids=(), asks=(), kind="delta"):
    return Book("acme", "A/B", 1, 1, kind, bids, asks)


def spellings(number: Decimal):
    """The same number as venues write it: with fewer or more zeros at the end."""
    text = format(number, "f")
    trimmed = text.rstrip("0").rstrip(".") if "." in text else text
    more = text if "." in text else text + "."
    return st.sampled_from([text, trimmed or "0", more + "0", more + "000"])


SIZES = st.sampled_from(["0", "0.0", "0.00000000", "0E-8", "0.0000000000", "-0"]) | st.decimals(
    "0.00000001", "900", places=8
).map(str)
NEAR = st.integers(1, 60).map(lambda ticks: Decimal(ticks).scaleb(-2))
FAR = st.integers(1, 3000).map(lambda ticks: Decimal(ticks).scaleb(-1))
LONG = st.integers(0, 9).map(lambda tail: Decimal("61837.630000000000") + Decimal(tail).scaleb(-12))


def level(prices):
    return st.tuples(prices.flatmap(spellings), SIZES)


@pytest.mark.parametrize("prices", [NEAR, FAR, NEAR | LONG], ids=["near", "far", "long"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_ladder_holds_what_a_plain_dict_of_decimals_holds(prices, data):
    deltas = data.draw(st.lists(st.lists(level(prices), max_size=120), max_size=8))
    book = LocalBook("acme", "A/B")
    plain: dict[Decimal, Decimal] = {}
    for levels in deltas:
        book.apply(event(levels, levels))
        for price, size in levels:
            plain.pop(Decimal(price), None)
            if Decimal(size):
                plain[Decimal(price)] = Decimal(size)

        assert sorted(plain.items()) == list(book.asks)
        assert sorted(plain.items(), reverse=True) == list(book.bids)
        assert min(plain.items(), default=None) == book.best_ask
        assert max(plain.items(), default=None) == book.best_bid
        assert sorted(plain.items())[:7] == book.asks.top(7)
        assert all(size == book.bids[price] for price, size in plain.items())


@pytest.mark.parametrize("seed", range(5))
def test_the_best_of_thousands_of_levels_are_right_however_the_price_runs(seed):
    chance = random.Random(seed)
    book = LocalBook("acme", "A/B")
    plain: dict[int, str] = {}
    middle = 50_000
    for _ in range(150):
        middle += chance.randint(-120, 120)
        ticks = [middle + int(chance.gauss(0, 400)) for _ in range(60)]
        levels = [
            (str(tick), "0" if chance.random() < 0.45 else str(tick % 7 + 1)) for tick in ticks
        ]
        book.apply(event(levels, levels))
        for tick, (_, size) in zip(ticks, levels, strict=True):
            plain.pop(tick, None)
            if size != "0":
                plain[tick] = size
        order = [(str(tick), plain[tick]) for tick in sorted(plain)]

        assert order[:40] == book.asks.raw_top(40)
        assert order[::-1][:40] == book.bids.raw_top(40)
    assert len(plain) > 600  # else nothing was ever left out of the sorted part
    assert order == book.asks.raw_top(10_000)


def test_prices_with_the_same_float_are_different_levels():
    one, other = "9007199254740992.1", "9007199254740992.2"
    book = LocalBook("acme", "A/B")
    book.apply(event([(one, "1")]))
    book.apply(event([(other, "2"), ("0.10", "3")]))

    assert float(one) == float(other)
    assert [(Decimal(other), 2), (Decimal(one), 1), (Decimal("0.1"), 3)] == list(book.bids)


def test_a_long_price_asks_for_decimal_names():
    with pytest.raises(PriceTooLongError):
        Ladder("bids").apply([("1.0000000000000001", "1")])


def test_a_price_that_is_not_there_has_no_size():
    book = LocalBook("acme", "A/B")
    book.apply(event([("0.1", "5")]))

    assert Decimal(5) == book.bids[Decimal("0.100")]
    assert Decimal(0) == book.bids[Decimal("0.10000000000000000001")]
    assert Decimal(0) == book.bids[Decimal("NaN")]


def test_texts_come_back_to_the_last_digit():
    book = LocalBook("acme", "A/B")
    book.apply(event([("61837.63000000", "3.78826000")]))

    assert book.bids.raw_best == ("61837.63000000", "3.78826000")
    assert tuple(map(str, book.best_bid)) == ("61837.63000000", "3.78826000")


def test_levels_may_come_as_decimals():
    book = LocalBook("acme", "A/B")
    book.apply(event([(Decimal("1E-7"), Decimal(2)), (Decimal("0.5"), Decimal("0E-8"))]))

    assert [(Decimal("0.0000001"), Decimal(2))] == list(book.bids)


@pytest.mark.parametrize(
    "levels",
    [
        [("abc", "1")],
        [("NaN", "1")],
        [("Infinity", "1")],
        [("sNaN", "1")],
        [("1", "-3")],
        [("1", "-x")],
        [("1", "2", "3")],
        [("2", None)],
        [(Decimal("NaN"), Decimal(1))],
        [()],
    ],
)
@pytest.mark.parametrize("side", ["bids", "asks"])
def test_a_level_that_cannot_be_read_empties_the_book(levels, side):
    book = LocalBook("acme", "A/B")
    book.replace(event([("1", "1")], [("2", "1")], "snapshot"))
    with pytest.raises(ValueError, match="cannot be read"):
        book.apply(event(**{side: levels}))

    assert book.state == "stale"
    assert len(book.bids) == len(book.asks) == 0
