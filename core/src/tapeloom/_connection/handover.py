"""What two connections bring together while one takes over from the other: each event once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import anyio

from tapeloom.events import OURS, Bar, Book, Event, Quote, Ticker, Trade


class Handover:
    """The two streams of one hand-over.

    What the old connection brings is delivered, and noted. What the new one brings is held. At the
    switch, what was held and not noted is released; from then on the new one's events are passed if
    they are fresh: it may lag behind the old one.
    """

    def __init__(self) -> None:
        self.turn = anyio.Lock()  #: to deliver: the two must not do it at the same time
        self._noted: set[Hashable] = set()
        self._last: dict[tuple[str, str], int] = {}  # of numbered books and quotes
        self._held: list[Event] = []
        self._switched = False

    def note(self, events: Iterable[Event]) -> None:
        """Remember what the old connection has brought."""
        for event in events:
            if type(event) in OURS:
                continue
            last = _number(event)
            if last is None:
                self._noted.add(_identity(event))
            else:
                place = event.symbol, event.channel
                self._last[place] = max(last, self._last.get(place, last))

    def passed(self, events: list[Event]) -> list[Event]:
        """Return what is to be delivered of the connection that counts, and take note of it."""
        if self._switched:
            return self.fresh(events)
        self.note(events)
        return events

    def forget(self) -> None:
        """Drop what was held of a new connection that has failed."""
        self._held.clear()

    def hold(self, events: Iterable[Event]) -> None:
        """Keep what the new connection brings before it has taken over."""
        self._held += events

    def release(self) -> list[Event]:
        """Return what was held and is fresh."""
        self._switched = True
        held, self._held = self._held, []
        return self.fresh(held)

    def fresh(self, events: Sequence[Event]) -> list[Event]:
        """Return those that the old connection has not brought."""
        return [event for event in events if type(event) in OURS or not self._known(event)]

    def _known(self, event: Event) -> bool:
        last = _number(event)
        if last is None:
            return _identity(event) in self._noted
        return last <= self._last.get((event.symbol, event.channel), last - 1)


def _number(event: Event) -> int | None:
    """Return the place of a book or quote in its venue's own count, where it has one."""
    if isinstance(event, Book):
        return event.last_id
    return event.sequence if isinstance(event, Quote) else None


def _identity(event: Event) -> Hashable:
    """Return what makes *event* the same on either connection: all that the venue says in it."""
    return type(event), event.symbol, event.channel, event.ts, _said(event)


def _said(event: Event) -> Hashable:
    if isinstance(event, Trade):
        return event.id or (event.price, event.size, event.side)
    if isinstance(event, Bar):
        return event.interval, event.closed, event.close, event.volume, event.trades
    if isinstance(event, Quote):
        return event.bid, event.bid_size, event.ask, event.ask_size
    if isinstance(event, Book):
        return event.kind, str(event.raw_bids), str(event.raw_asks)
    return (event.last, event.volume) if isinstance(event, Ticker) else None
