"""Where a delta stands in the sequence of a book, told from the ids that it carries.

Venues number in three ways, and a delta shows which is its own:

- linked: it names the id before it (`previous`), and ids may jump;
- counted: it has `first` and `last` but no `previous`, and ids leave no hole;
- unchecked: it has neither, and nothing can be known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from tapeloom.events import Book

__all__ = ["Place", "after_delta", "after_snapshot", "is_checked", "missing"]

Place: TypeAlias = Literal["next", "old", "gap"]


def is_checked(event: Book) -> bool:
    """Tell whether *event* carries ids that can be checked."""
    return event.last_id is not None and (
        event.previous_id is not None or event.first_id is not None
    )


def after_delta(event: Book, last: int | None) -> Place:
    """Place *event* behind a delta that ended with the id *last*."""
    end = event.last_id
    if last is None or end is None:
        return "next"
    previous = event.previous_id
    if previous is not None:
        if previous == last:
            return "next"
        return "old" if end <= last else "gap"
    first = event.first_id
    if first is None:
        return "next"
    if end <= last:
        return "old"
    return "next" if first <= last + 1 else "gap"


def after_snapshot(event: Book, last: int | None) -> Place:
    """Place *event* behind a snapshot that was taken at the id *last*.

    A linked delta that ends with the snapshot's own id is the first to apply; a counted one is the
    last to drop. So the futures and the spot procedure of the venues that number like this say.
    """
    end, first = event.last_id, event.first_id
    if last is None or end is None:
        return "next"
    if event.previous_id is not None:
        if end < last:
            return "old"
        joins = event.previous_id == last or first is None or first <= last
        return "next" if joins else "gap"
    if first is None:
        return "next"
    if end <= last:
        return "old"
    return "next" if first <= last + 1 else "gap"


def missing(event: Book, last: int | None) -> int | None:
    """Count the ids lost between *last* and *event*; None where ids are not counted."""
    if event.previous_id is not None or event.first_id is None or last is None:
        return None
    return event.first_id - last - 1
