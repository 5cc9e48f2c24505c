"""The latest state of everything, for clients that join late.

A state is an event that the next of its kind replaces: a quote, a ticker, a bar of each interval, and any
event of a plugin whose `is_state` is true. An order book is kept as its snapshot and the deltas since.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from attrs import evolve
from tapeloom import Bar, Book, Event, Gap

from .selection import Key, Selection

__all__ = ["Latest", "merge_book"]

#: Number of deltas after which they are merged into the snapshot.
_MAX_DELTAS = 256
#: Number of levels of each side that a merged book has at most.
_MAX_LEVELS = 10_000
#: Types without any state, which are most events.
_STATELESS = frozenset({"trade", "reject", "status"})

_BookKey = tuple[str, str, str]  # venue, symbol, channel


class Latest:
    """The latest states by key."""

    def __init__(self) -> None:
        self._states: dict[tuple[Key, str], Event] = {}
        self._books: dict[_BookKey, list[Book]] = {}  # a snapshot and the deltas since

    def add(self, key: Key, events: Sequence[Event]) -> None:
        """Take over *events*, which all have this key and are in order."""
        type_ = key[0]
        if type_ in _STATELESS:
            return
        if type_ == "book":
            self._add_books(key[1:], events)
        elif type_ == "gap":
            for event in events:
                self._invalidate_books(event)
        elif type_ == "bar":
            for event in events:
                if type(event) is Bar:
                    self._states[key, event.interval] = event
        elif events[-1].is_state:
            self._states[key, ""] = events[-1]

    def select(self, selection: Selection) -> list[Event]:
        """Return the latest states of a selection."""
        states: list[Event] = [
            event for (key, _), event in self._states.items() if selection.selects(key)
        ]
        for book_key in self._books:
            if selection.selects(("book", *book_key)):
                states += self.book(book_key)
        return states

    def book(self, key: _BookKey) -> list[Event]:
        """Return a snapshot of the book of this venue, symbol and channel; empty if none is known."""
        kept = self._books.get(key)
        if kept is None:
            return []
        if len(kept) > 1:
            kept = self._books[key] = [merge_book(kept)]
        return [kept[0]]

    def _add_books(self, key: _BookKey, events: Iterable[Event]) -> None:
        for event in events:
            if type(event) is not Book:
                continue
            if event.kind == "snapshot":
                self._books[key] = [event]
            elif key in self._books:
                kept = self._books[key]
                kept.append(event)
                if len(kept) > _MAX_DELTAS:
                    self._books[key] = [merge_book(kept)]

    def _invalidate_books(self, gap: Any) -> None:
        """Forget the books that lack what *gap* lost; the venue's next snapshot brings them back."""
        if type(gap) is not Gap or gap.state not in ("open", "unrecoverable"):
            return
        for key in [*self._books]:
            venue, symbol, channel = key
            concerns = gap.venue == venue and gap.symbol in ("", symbol)
            # A gap is reported again when its fate is known; then the book is newer than its end.
            if concerns and gap.channel in ("", channel) and self._books[key][-1].ts < gap.until:
                del self._books[key]


def merge_book(books: Sequence[Book]) -> Book:
    """Return the snapshot that a snapshot and the deltas after it make together."""
    last = books[-1]
    return evolve(
        last,
        kind="snapshot",
        raw_bids=_merge([book.raw_bids for book in books], descending=True),
        raw_asks=_merge([book.raw_asks for book in books], descending=False),
        first_id=None,
        previous_id=None,
        depth=books[0].depth,
    )


def _merge(sides: Iterable[Any], *, descending: bool) -> list[Any]:
    """Return the levels of one side after changes, the best first."""
    levels: dict[Decimal, Any] = {}
    for side in sides:
        for level in side:
            price = Decimal(level[0])
            if Decimal(level[1]):
                levels[price] = level
            else:
                levels.pop(price, None)
    return [levels[price] for price in sorted(levels, reverse=descending)][:_MAX_LEVELS]
