"""Quotes and books: prices, sizes, crossed sides, order and time."""

from decimal import Decimal

import pytest
from attrs import evolve


def rules(events):
    return [getattr(event, "rule", event.type) for event in events]


@pytest.mark.parametrize("bad", ["0", "-1", "NaN", "sNaN", "Infinity"])
@pytest.mark.parametrize("side", ["bid", "ask"])
def test_both_prices_of_a_quote_must_be_numbers_above_zero(quality, make, side, bad):
    out = quality()([make.quote(), make.quote(**{side: bad}), make.quote()])

    assert rules(out) == ["quote", "price", "quote"]
    assert f"{side} {bad}" in out[1].evidence


@pytest.mark.parametrize("bad", ["-1", "NaN", "sNaN", "Infinity"])
def test_sizes_of_a_quote_must_be_numbers(quality, make, bad):
    batch = [make.quote(sizes=pair) for pair in (("0", "0"), (bad, "1"), ("1", bad))]

    assert rules(quality()(batch)) == ["quote", "size", "size"]


@pytest.mark.parametrize(
    ("bid", "verdict"), [("100", "quote"), ("101", "crossed"), ("102", "crossed")]
)
def test_a_locked_or_crossed_quote_is_rejected_with_evidence(quality, make, bid, verdict):
    out = quality()([make.quote(), make.quote(bid, at=1)])

    assert rules(out)[1] == verdict
    assert verdict == "quote" or out[1].evidence == f"bid {bid} is not below ask 101"


def test_crossed_quotes_can_be_allowed(quality, make):
    batch = [make.quote(), make.quote("101"), make.quote("102"), make.quote()]

    assert quality(off=("crossed",))(batch) is batch


def test_quotes_are_ordered_by_sequence(quality, make):
    batch = [
        make.quote(sequence=n, at=at)
        for n, at in ((5, 0), (7, 10), (6, 0), (7, 10), (7, 11), (None, 12), (8, 12))
    ]

    out = quality()(batch)

    assert rules(out) == ["quote", "quote", "order", "duplicate", "quote", "quote", "quote"]


def half(quote, side):
    """Return *quote* without the price and size of *side*."""
    return evolve(quote, **{side: None, f"{side}_size": None})


def test_a_quote_with_an_empty_side_passes(quality, make):
    whole = make.quote(at=1)
    batch = [whole, half(whole, "ask"), half(whole, "bid"), half(half(whole, "bid"), "ask"), whole]

    assert quality()(batch) is batch


@pytest.mark.parametrize(
    ("missing", "rule"),
    [("bid", "price"), ("ask", "price"), ("bid_size", "size"), ("ask_size", "size")],
)
def test_an_empty_side_has_neither_price_nor_size(quality, make, missing, rule):
    odd = evolve(make.quote(), **{missing: None})
    out = quality()([odd])

    assert rules(out) == [rule]
    assert "an empty side has neither" in out[0].evidence
    assert rules(quality(off=(rule,))([odd])) == ["quote"]


@pytest.mark.parametrize(("side", "bad"), [("bid", "0"), ("ask", "NaN")])
def test_the_other_side_of_a_half_quote_is_checked(quality, make, side, bad):
    other = {"bid": "ask", "ask": "bid"}[side]

    assert rules(quality()([half(make.quote(**{side: bad}), other)])) == ["price"]


def test_order_and_time_of_half_quotes_are_checked(quality, make):
    stage = quality()
    batch = [
        half(make.quote(sequence=5, at=9000), "ask"),
        half(make.quote(sequence=4, at=9000), "bid"),
        half(make.quote(sequence=6, at=0), "bid"),
        make.quote(sequence=7, at=9001),
    ]

    assert rules(stage(batch)) == ["quote", "order", "backwards", "quote"]


def test_half_quotes_do_not_keep_a_new_price_level_from_being_accepted(quality, make):
    stage = quality(confirmations=3, confirm_after="1h")
    stage([make.quote()])
    new = [make.quote("200", "201", at=at) for at in range(1, 4)]
    out = stage([event for quote in new for event in (quote, half(quote, "ask"))])

    assert rules(out) == ["jump", "quote", "jump", "quote", "quote", "quote"]


def test_a_restarted_sequence_does_not_block_the_symbol(quality, make):
    stage = quality()
    stage([make.quote(sequence=1000)])

    out = stage([make.quote(sequence=n, at=n) for n in range(1, 7)])

    assert rules(out) == ["order", "order", "quote", "quote", "quote", "quote"]


def test_replayed_quotes_do_not_restart_the_sequence(quality, make):
    stage = quality()
    quotes = [make.quote(sequence=n, at=n) for n in range(1, 20)]
    stage(quotes)

    assert set(rules(stage(quotes[:-1]))) == {"order"}


def test_quotes_built_from_a_book_have_their_own_reference(quality, make):
    batch = [
        make.quote(sequence=100, at=9000),
        make.quote("200", "201", sequence=1, at=1, origin="built_from_book"),
        make.quote(sequence=101, at=9001),
    ]

    assert quality()(batch) is batch


def test_time_of_quotes_and_books_may_not_run_back(quality, make):
    quotes = [make.quote(at=9000), make.quote(at=0), make.quote(at=9001)]
    deltas = [make.book(at=at, kind="delta") for at in (9000, 0, 9001)]

    assert rules(quality()(quotes)) == ["quote", "backwards", "quote"]
    assert rules(quality()(deltas)) == ["book", "backwards", "book"]


def test_a_snapshot_from_before_the_deltas_passes(quality, make):
    batch = [make.book(at=9000, kind="delta"), make.book(at=0), make.book(at=9001, kind="delta")]

    assert quality()(batch) is batch


@pytest.mark.parametrize("kind", ["snapshot", "delta"])
@pytest.mark.parametrize("side", ["bids", "asks"])
@pytest.mark.parametrize(
    ("level", "rule"),
    [
        (("-1", "1"), "price"),
        (("0.000", "1"), "price"),
        (("0." + "0" * 40, "1"), "price"),
        (("0E-8", "1"), "price"),
        (("0.00E5", "1"), "price"),
        (("NaN", "1"), "price"),
        (("Infinity", "1"), "price"),
        (("", "1"), "price"),
        (("1", "-0.1"), "size"),
        (("1", "nan"), "size"),
        (("1", "inf"), "size"),
        ((Decimal(-1), Decimal(1)), "price"),
        ((Decimal("sNaN"), Decimal(1)), "price"),
        ((Decimal(1), Decimal(-1)), "size"),
    ],
)
def test_every_level_of_a_book_is_a_price_and_a_size(
    quality, make, counters, kind, side, level, rule
):
    good = ("100", "1") if side == "bids" else ("101", "1")
    out = quality()([make.book(**{side: [good, level]}, kind=kind)])

    assert rules(out) == [rule]
    assert str(level[0]) in out[0].evidence or str(level[1]) in out[0].evidence
    assert counters == {f"reject.{rule}": 1}


def test_small_prices_and_removed_levels_pass(quality, make):
    levels = [("0.00001", "0.00"), (".5", "0"), ("+1", "1E+3")]
    batch = [make.book(levels, [], kind="delta"), make.book([], [("0.1", "0")], kind="delta")]

    assert quality()(batch) is batch


def test_levels_of_decimals_are_checked_too(quality, make):
    good = [(Decimal(100), Decimal(0))]
    batch = [make.book(good, [(Decimal(101), Decimal(1))])]

    assert quality()(batch) is batch


@pytest.mark.parametrize("bid", ["101", "101.00", "102"])
def test_a_crossed_snapshot_is_rejected_and_a_delta_is_not(quality, make, bid):
    delta = make.book([(bid, "1")], kind="delta")
    out = quality()([make.book([(bid, "1")]), delta])

    assert rules(out) == ["crossed", "book"]
    assert bid in out[0].evidence
    assert out[1] is delta


def test_a_book_with_an_empty_side_is_not_crossed(quality, make):
    batch = [make.book([], [("1", "1")]), make.book([("1", "1")], []), make.book([], [])]

    assert quality()(batch) is batch


def test_rules_on_quotes_and_books_can_be_off(quality, make):
    stage = quality(off=("price", "size", "crossed", "order", "duplicate", "backwards"))
    batch = [
        make.quote("NaN", "sNaN", sequence=5, at=9000),
        make.quote("2", "1", sizes=("-1", "NaN"), sequence=4),
        make.book([("-1", "-1")], [("x", "x")]),
    ]

    assert stage(batch) is batch


def test_time_from_the_future_is_rejected_where_a_limit_is_set(quality, make):
    stage = quality(max_ahead="0s")
    for event in (make.quote(), make.book(), make.bar(), make.ticker()):
        event.recv = event.ts - 1

        assert rules(stage([event])) == ["ahead"]
