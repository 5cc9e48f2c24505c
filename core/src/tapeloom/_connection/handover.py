"""Merges the events of an old connection and its successor: each event is delivered once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import anyio

from tapeloom.events import OURS, Book, Event, Quote


class Handover:
    """Removes the duplicates of two connections that carry the same subscriptions.

    Before the switch, the old connection's events are recorded and delivered, and the new one's are
    buffered. At the switch, the buffered events that were not recorded are released. After it, the
    new connection's events are deduplicated as well, because it may lag behind the old one.

    A state, such as a quote, that is older than what was delivered is not delivered any more, however
    long it was buffered.
    """

    def __init__(self) -> None:
        self.lock = anyio.Lock()  #: held while delivering: only one connection delivers at a time
        self._recorded: set[Hashable] = set()
        self._last_ids: dict[tuple[str, str], int] = {}  # of books and quotes with sequence ids
        self._last_times: dict[tuple[str, str, type], int] = {}  # of states, in ns
        self._buffered: list[Event] = []
        self._switched = False

    def record(self, events: Iterable[Event]) -> None:
        """Record events that the old connection has delivered, to recognise their duplicates.

        Events with a sequence id are recorded as the highest id per symbol and channel.
        """
        for event in events:
            if type(event) in OURS:  # made by tapeloom, so no connection repeats it
                continue
            sequence_id = _sequence_id(event)
            if sequence_id is None:
                self._recorded.add(event.identity)
                if event.is_state:
                    place = event.symbol, event.channel, type(event)
                    self._last_times[place] = max(event.ts, self._last_times.get(place, 0))
            else:
                key = event.symbol, event.channel
                self._last_ids[key] = max(sequence_id, self._last_ids.get(key, sequence_id))

    def accept(self, events: list[Event]) -> list[Event]:
        """Return the events of the current connection that are to be delivered."""
        if self._switched:
            return self.deduplicate(events)
        self.record(events)
        return events

    def clear(self) -> None:
        """Discard the buffered events of a successor that has failed."""
        self._buffered.clear()

    def buffer(self, events: Iterable[Event]) -> None:
        """Keep events of the new connection until the switch."""
        self._buffered += events

    def switch(self) -> list[Event]:
        """Make the new connection the current one; return its buffered events, deduplicated."""
        self._switched = True
        buffered, self._buffered = self._buffered, []
        return self.deduplicate(buffered)

    def deduplicate(self, events: Sequence[Event]) -> list[Event]:
        """Return the events that the old connection has not delivered."""
        return [event for event in events if type(event) in OURS or not self._is_recorded(event)]

    def _is_recorded(self, event: Event) -> bool:
        sequence_id = _sequence_id(event)
        if sequence_id is None:
            place = event.symbol, event.channel, type(event)
            is_old = event.is_state and event.ts < self._last_times.get(place, 0)
            return is_old or event.identity in self._recorded
        return sequence_id <= self._last_ids.get((event.symbol, event.channel), sequence_id - 1)


def _sequence_id(event: Event) -> int | None:
    """Return the sequence id of a book or quote, None where it has none."""
    if isinstance(event, Book):
        return event.last_id
    return event.sequence if isinstance(event, Quote) else None
