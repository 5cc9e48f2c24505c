from __future__ import annotations

import pytest
from tapeloom.events import Book
from tapeloom_books.rules import missing_count, position_after_delta, position_after_snapshot


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
        (delta(None, None), 10, "next"),
        (delta(5, 6), None, "next"),
    ],
)
def test_a_delta_joins_a_snapshot(event, last, place):
    assert place == position_after_snapshot(event, last)


def test_lost_ids_are_counted_only_where_ids_are():
    assert missing_count(delta(15, 20), 10) == 4
    assert missing_count(delta(15, 20, 12), 10) is None
