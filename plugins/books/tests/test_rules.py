from __future__ import annotations

import pytest
from tapeloom.events import Book
from tapeloom_books.rules import (
    first_joining,
    missing_count,
    position_after_delta,
    position_after_snapshot,
)


def delta(first, last, previous=None):
    return Book("acme", "A/B", 1, 1, "delta", (), (), first, last, previous)


@pytest.mark.parametrize(
    ("event", "last", "place"),
    [
        (delta(11, 15), 10, "next"),
        (delta(8, 15), 10, "next"),  # overlaps what is known
        (delta(12, 15), 10, "gap"),
        (delta(8, 10), 10, "old"),
        (delta(3, 9), 10, "old"),
        (delta(11, 11), 10, "next"),
        (delta(20, 25, 10), 10, "next"),  # linked: ids may jump
        (delta(20, 25, 11), 10, "gap"),
        (delta(11, 25, 12), 10, "gap"),
        (delta(5, 9, 4), 10, "old"),
        (delta(None, None), 10, "next"),
        (delta(None, 5), 10, "next"),  # an end alone proves nothing
        (delta(100, 105), None, "next"),
        (delta(100, 105, 99), None, "next"),
    ],
)
def test_a_delta_follows_a_delta(event, last, place):
    assert place == position_after_delta(event, last)


@pytest.mark.parametrize(
    ("event", "last", "place"),
    [
        (delta(8, 10), 10, "old"),
        (delta(8, 11), 10, "next"),
        (delta(11, 12), 10, "next"),
        (delta(12, 12), 10, "gap"),
        (delta(8, 9, 7), 10, "old"),
        (delta(8, 10, 7), 10, "next"),  # linked: one that ends there is the first to apply
        (delta(8, 15, 7), 10, "next"),
        (delta(14, 15, 10), 10, "next"),
        (delta(14, 15, 12), 10, "gap"),
        (delta(None, 15, 10), 10, "next"),
        (delta(None, 15, 9), 10, "next"),  # the snapshot lies within the delta
        (delta(None, 15, 12), 10, "gap"),  # the snapshot is older than the delta needs
        (delta(None, 10, 8), 10, "old"),
        (delta(None, 9, 8), 10, "old"),
        (delta(None, 10, 10), 10, "next"),  # a keep-alive without changes
        (delta(None, 3, 10), 10, "next"),  # the venue reset its ids
        (delta(None, None), 10, "next"),
        (delta(5, 6), None, "next"),
    ],
)
def test_a_delta_joins_a_snapshot(event, last, place):
    assert place == position_after_snapshot(event, last)


#: OKX's own example of all forms: a keep-alive, and ids that are reset.
RESET = [(10, 15), (15, 15), (15, 3), (3, 5)]


@pytest.mark.parametrize(
    ("links", "last", "index"),
    [
        (RESET, 15, 1),
        (RESET, 12, 0),
        (RESET, 4, 3),
        (RESET, 5, 4),
        ([(20, 30), (30, 40)], 10, None),
        ([(20, 30), (30, 40)], 20, 0),
        ([(20, 30), (30, 40)], 35, 1),
        ([(20, 30), (30, 40)], 50, 2),
        ([], 50, 0),
    ],
)
def test_linked_deltas_join_a_snapshot_at_the_first_that_reaches_beyond_it(links, last, index):
    deltas = [delta(None, end, previous) for previous, end in links]

    assert first_joining(deltas, last) == index


def test_lost_ids_are_counted_only_where_ids_are():
    assert missing_count(delta(15, 20), 10) == 4
    assert missing_count(delta(15, 20, 12), 10) is None
