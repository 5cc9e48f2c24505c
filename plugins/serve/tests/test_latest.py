"""What late joiners get: the latest states, and books that are complete."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom import Bar, Book, Gap, Quote
from tapeloom_serve import latest as module
from tapeloom_serve.latest import Latest, merge_book
from tapeloom_serve.selection import EVERYTHING, Selection

KEY = ("venue", "BTC/USDT", "book")
LEVELS = st.lists(
    st.tuples(
        st.sampled_from(["1", "1.0", "2", "2.50", "3"]), st.sampled_from(["0", "0.0", "1", "7"])
    )
)


def book(ts, kind="delta", bids=(), asks=()):
    bids, asks = list(map(list, bids)), list(map(list, asks))
    return Book("venue", "BTC/USDT", ts, ts, kind, bids, asks, ts, ts, ts - 1)


def gap(since, until, **fields):
    return Gap("venue", "BTC/USDT", until, until, since, until, "disconnect", **fields)


def levels(side):
    return {Decimal(price): Decimal(size) for price, size in side if Decimal(size)}


@settings(deadline=None)
@given(LEVELS, st.lists(LEVELS, max_size=12))
def test_a_merged_book_has_the_levels_of_its_parts_best_first(first, changes):
    model = {}
    for side in [first, *changes]:
        for price, size in side:
            model[Decimal(price)] = Decimal(size)
    parts = [book(1, "snapshot", first, first)]
    parts += [book(n, "delta", change, change) for n, change in enumerate(changes, 2)]

    merged = merge_book(parts)

    expected = {price: size for price, size in model.items() if size}
    assert levels(merged.raw_bids) == levels(merged.raw_asks) == expected
    assert [price for price, _ in merged.bids] == sorted(expected, reverse=True)
    assert [price for price, _ in merged.asks] == sorted(expected)
    assert (merged.kind, merged.last_id, merged.ts) == ("snapshot", parts[-1].last_id, parts[-1].ts)


def test_a_book_is_merged_before_it_grows_for_ever(monkeypatch):
    monkeypatch.setattr(module, "_MAX_DELTAS", 3)
    found = Latest()
    found.add(("book", *KEY), [book(1, "snapshot", [("1", "1")])])
    for n in range(2, 40):
        found.add(("book", *KEY), [book(n, "delta", [(str(n), "1")])])

    assert len(found._books[KEY]) <= 4
    assert len(found.book(KEY)[0].bids) == 39


def test_deltas_without_a_snapshot_are_no_book():
    found = Latest()
    found.add(("book", *KEY), [book(2)])

    assert found.book(KEY) == []


@pytest.mark.parametrize(
    ("event", "is_kept"),
    [
        (gap(5, 9, channel="book"), False),
        (gap(5, 9), False),
        (gap(5, 9, channel="trades"), True),
        (gap(5, 9, channel="book", state="filled"), True),
        (gap(1, 5, channel="book", state="unrecoverable"), True),
    ],
    ids=["of the book", "of all channels", "of another channel", "filled", "before the snapshot"],
)
def test_a_book_with_a_gap_is_forgotten(event, is_kept):
    found = Latest()
    found.add(("book", *KEY), [book(5, "snapshot", [("1", "1")])])

    found.add(("gap", event.venue, event.symbol, event.channel), [event])

    assert bool(found.book(KEY)) is is_kept


def test_the_latest_bar_of_each_interval_and_the_latest_quote_are_kept():
    def bar(ts, interval):
        one = Decimal(1)
        return Bar("venue", "BTC/USDT", ts, ts, interval, one, one, one, one, one, one, one, one, 1)

    def quote(ts):
        return Quote("venue", "BTC/USDT", ts, ts, None, None, None, None)

    found = Latest()
    bars = [bar(1, "1s"), bar(1, "1m"), bar(2, "1s")]
    found.add(("bar", "venue", "BTC/USDT", "bars"), bars)
    found.add(("quote", "venue", "BTC/USDT", "quotes"), [quote(1), quote(2)])

    assert found.select(EVERYTHING) == [bars[2], bars[1], quote(2)]
    assert found.select(Selection(types=frozenset({"quote"}))) == [quote(2)]
    assert found.select(Selection(venues=frozenset({"other"}))) == []
