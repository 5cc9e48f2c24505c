"""Sequence rules of order books: whether a delta is the next one, old, or follows a gap.

There are three numbering schemes, and the ids of a delta show which one applies:

- linked: `previous_id` is the `last_id` of the delta before, and ids may jump;
- counted: the delta has `first_id` and `last_id` but no `previous_id`, and ids are consecutive;
- unchecked: the delta has no such ids, and a lost delta cannot be detected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from tapeloom.events import Book

__all__ = [
    "Position",
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

    A linked delta that ends with the snapshot's id is the first to apply; a counted one is the last
    to drop. Source: Binance's instructions for local order books, futures (linked) and spot (counted).
    """
    end, first = event.last_id, event.first_id
    if last_id is None or end is None:
        return "next"
    if event.previous_id is not None:
        if end < last_id:
            return "old"
        joins = event.previous_id == last_id or first is None or first <= last_id
        return "next" if joins else "gap"
    if first is None:
        return "next"
    if end <= last_id:
        return "old"
    return "next" if first <= last_id + 1 else "gap"


def missing_count(event: Book, last_id: int | None) -> int | None:
    """Return the number of ids missing between *last_id* and *event*; None if ids are not counted."""
    if event.previous_id is not None or event.first_id is None or last_id is None:
        return None
    return event.first_id - last_id - 1
