"""Up to where the relayed feeds are stored in one sink: a cursor for each, bound to a number of its events."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping

from tapeloom.events import Event
from tapeloom.plugin import Cursor

#: A position whose key ends with it is a cursor.
_KEY = "cursor"


class Cursors:
    """The cursors of one sink, from its queue to its store.

    A cursor is taken off its events, then bound to the number of the last of them, and stored with them.
    """

    def __init__(self) -> None:
        self.stored: dict[str, Cursor] = {}  #: by feed: what the store, or the spool, has
        self._taken: dict[str, Cursor] = {}  # their events have no number yet
        self._numbered: deque[tuple[int, Cursor]] = deque()
        self._in_hand: list[tuple[int, Cursor]] = []  # of events that are being written

    def take(self, events: list[Event]) -> list[Event]:
        """Return a batch of the queue without its cursor; nothing if its events are stored already."""
        cursor: object = events[-1] if events else None
        if type(cursor) is not Cursor:
            return events
        stored = self.stored.get(cursor.feed)
        if stored and stored.origin == cursor.origin and cursor.number <= stored.number:
            return []
        self._taken[cursor.feed] = cursor
        return events[:-1]

    def taken(self) -> Mapping[str, str]:
        """Return, as positions, the cursors that were taken and have no number yet."""
        return texts(self._taken.values()) if self._taken else {}

    def number(self, last: int) -> None:
        """Bind the cursors that were taken to the number *last*."""
        if self._taken:
            self._numbered += [(last, cursor) for cursor in self._taken.values()]
            self._taken = {}

    def through(self, last: int) -> Mapping[str, str]:
        """Return, as positions, the cursors up to the number *last*: to be stored with its event."""
        while self._numbered and self._numbered[0][0] <= last:
            self._in_hand.append(self._numbered.popleft())
        found = {cursor.feed: cursor for number, cursor in self._in_hand if number <= last}
        return texts(found.values()) if found else {}

    def forget(self, last: int) -> None:
        """Forget the cursors up to the number *last*: they are stored."""
        if self._in_hand:
            self._in_hand = [item for item in self._in_hand if item[0] > last]

    def restore(self, positions: Mapping[str, str], number: int | None = None) -> dict[str, str]:
        """Take over the cursors among *positions*, the newest last; return the other positions.

        With *number* they are bound to it: they are in the spool, but perhaps not in the store.
        """
        others = {}
        for key, text in positions.items():
            try:
                feed, _, kind = json.loads(key)
                cursor = Cursor(feed, **json.loads(text)) if kind == _KEY else None
            except (ValueError, TypeError):
                cursor = None
            if cursor is None:
                others[key] = text
                continue
            self.stored[cursor.feed] = cursor
            if number is not None:
                self._numbered.append((number, cursor))
        return others


def texts(cursors: Iterable[Cursor]) -> dict[str, str]:
    """Return cursors as a store keeps them."""
    return {
        json.dumps([cursor.feed, "", _KEY]): json.dumps(
            {"origin": cursor.origin, "number": cursor.number, "text": cursor.text}
        )
        for cursor in cursors
    }


def earliest(cursors: Iterable[Cursor | None]) -> Cursor | None:
    """Return the earliest cursor; None if there is none."""
    return min(
        (cursor for cursor in cursors if cursor is not None),
        key=lambda cursor: cursor.number,
        default=None,
    )
