"""Counts the events with an equal key and no id, at one time of one source, in one run.

Two equal trades in one ms are two trades, and the second one needs a key of its own. The count is the
same when the events are delivered again, so what comes twice has the same keys. It starts anew for each
origin: what a backfill delivers again are the same events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, TypeAlias

from tapeloom.events import BaseEvent

from .tables import Table

__all__ = ["Occurrences", "Source", "Stored"]

#: Venue, symbol, channel and origin of events of one class.
Source: TypeAlias = tuple[str, str, str, str]
#: Returns what is stored of this run at some times: source, time, key, and how many equal ones.
Stored: TypeAlias = Callable[[Iterable[tuple[Source, int]]], Iterable[tuple[Source, int, str, int]]]

#: Number of times in ns whose counts are kept; older ones are asked from the store.
_MAX_TIMES = 20_000


class Occurrences:
    """The counts of one event class. *latest* is the latest time that the run has stored."""

    def __init__(self, table: Table, latest: int) -> None:
        names = ["venue", "symbol", "channel"]
        self._has_origin = "origin" in table.types
        self._source = attrgetter(*names, "origin") if self._has_origin else attrgetter(*names)
        self._at_open = latest
        self._latest: dict[Source, int] = {}
        self._counts: dict[tuple[Source, int], dict[str, int]] = {}

    def count(self, events: Sequence[BaseEvent], keys: Sequence[str], stored: Stored) -> list[int]:
        """Return for each event how many equal ones came before it in this run.

        What is not known here is asked of *stored*, at most once.
        """
        times = self._times(events)
        unique = dict.fromkeys(times)
        self._load(unique, stored)
        counts = []
        for time, key in zip(times, keys, strict=True):
            known = self._counts.get(time)
            if known is None:
                known = self._counts[time] = {}
            count = known.get(key, 0)
            known[key] = count + 1
            counts.append(count)
        for source, ts in unique:
            if ts > self._latest.get(source, self._at_open):
                self._latest[source] = ts
        self._forget()
        return counts

    def _times(self, events: Sequence[BaseEvent]) -> list[tuple[Source, int]]:
        sources: Iterable[Any] = map(self._source, events)
        if not self._has_origin:
            sources = [(*source, "") for source in sources]
        return list(zip(sources, [event.ts for event in events], strict=True))

    def _load(self, times: Iterable[tuple[Source, int]], stored: Stored) -> None:
        """Load the counts at times that may have been stored and are not known any more."""
        unknown = [
            (source, ts)
            for source, ts in times
            if ts <= self._latest.get(source, self._at_open) and (source, ts) not in self._counts
        ]
        if unknown:
            self._counts.update({time: {} for time in unknown})
            for source, ts, key, count in stored(unknown):
                self._counts[source, ts][key] = count

    def _forget(self) -> None:
        if len(self._counts) > _MAX_TIMES:
            kept = list(self._counts.items())[-_MAX_TIMES // 2 :]
            self._counts = dict(kept)
