"""Sequence rules of order books: whether a delta is the next one, old, or follows a gap.

There are three numbering schemes, and the ids of a delta show which one applies:

- linked: `previous_id` is the `last_id` of the delta before, and ids may jump;
- counted: the delta has `first_id` and `last_id` but no `previous_id`, and ids are consecutive;
- unchecked: the delta has no such ids, and a lost delta cannot be detected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tapeloom.events import Book

__all__ = [
    "Position",
    "first_joining",
    "has_sequence_ids",
    "missing_count",
    "position_after_delta",
    "position_after_snapshot",
]

#: "next": apply it; "old": already contained; "gap": updates before it are missing.
Position: TypeAlias = Literal["next", "old", "gap"]


def has_sequence_ids(event: Book) -> bool:
    """Return whether *event* carries ids that can be checked."""
    return event.last_id is not None and (
        event.previous_id is not None or event.first_id is not None
    )


def position_after_delta(event: Book, last_id: int | None) -> Position:
    """Return the position of *event* relative to the delta that ended with *last_id*."""
    end = event.last_id
    if last_id is None or end is None:
        return "next"
    previous = event.previous_id
    if previous is not None:
        if previous == last_id:
            return "next"
        return "old" if end <= last_id else "gap"
    first = event.first_id
    if first is None:
        return "next"
    if end <= last_id:
        return "old"
    return "next" if first <= last_id + 1 else "gap"


def position_after_snapshot(event: Book, last_id: int | None) -> Position:
    """Return the position of *event* relative to a snapshot taken at *last_id*.

    A delta joins if it follows the snapshot, or if the snapshot lies within it: sizes are absolute, so
    what the snapshot already contains does no harm. Sources: Binance's instructions for local order
    books, spot (counted) and futures (linked, with `first_id`, where a delta that ends with the
    snapshot's id is the first to apply); OKX's (linked, without `first_id`, and ids may be reset).
    """
    end, first, previous = event.last_id, event.first_id, event.previous_id
    if last_id is None or end is None:
        return "next"
    if previous is not None:
        if previous == last_id:
            return "next"
        if first is None:
            return "old" if end <= last_id else "next" if previous < last_id else "gap"
        return "old" if end < last_id else "next" if first <= last_id else "gap"
    if first is None:
        return "next"
    if end <= last_id:
        return "old"
    return "next" if first <= last_id + 1 else "gap"


def first_joining(deltas: Sequence[Book], last_id: int | None) -> int | None:
    """Return the index of the first delta to apply to a snapshot taken at *last_id*.

    The *deltas* follow one another. The index is their number if the snapshot already contains all of
    them, and None if updates between the snapshot and the deltas are missing.
    """
    position: Position = "old"
    for index, delta in enumerate(deltas):
        position = position_after_snapshot(delta, last_id)
        if position == "next":
            return index
    return len(deltas) if position == "old" else None


def missing_count(event: Book, last_id: int | None) -> int | None:
    """Return the number of ids missing between *last_id* and *event*; None if ids are not counted."""
    if event.previous_id is not None or event.first_id is None or last_id is None:
        return None
    return event.first_id - last_id - 1
