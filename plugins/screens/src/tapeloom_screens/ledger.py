"""`Ledger`: the gaps of a stream, each once with its latest state; its last rejects and status changes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from tapeloom.events import BaseEvent, Gap, GapState, Reject, Status

from .views import GapEntry

#: States of a gap, from nothing missing to all of it.
_WORSE: dict[GapState, int] = {"filled": 0, "partial": 1, "open": 2, "unrecoverable": 3}


class Ledger:
    """What was missing, refused and reported. All of it is bounded: the oldest is dropped."""

    def __init__(self, gaps: int, events: int) -> None:
        self._most = gaps
        self._gaps: dict[object, GapEntry] = {}  # by identity, in order of the first report
        self.rejects: deque[Reject] = deque(maxlen=events)
        self.statuses: deque[Status] = deque(maxlen=events)
        self.gap_count = 0  #: gaps in all, also those that were dropped

    def add_gap(self, gap: Gap) -> bool:
        """Add a report of a gap; return whether it is the first one of it.

        The first report of one that has been dropped, since `gaps` newer ones were found, counts again.
        """
        key = gap.identity
        entry = self._gaps.get(key)
        if entry is not None:
            self._gaps[key] = GapEntry(gap, entry.first_reported, entry.reports + 1)
            return False
        if len(self._gaps) == self._most:
            del self._gaps[next(iter(self._gaps))]
        self._gaps[key] = GapEntry(gap, gap.recv, 1)
        self.gap_count += 1
        return True

    def gaps(self, count: int, wanted: Callable[[BaseEvent], bool]) -> list[GapEntry]:
        """Return the last *count* gaps that are wanted, the newest first."""
        return _first(
            count, (entry for entry in reversed(self._gaps.values()) if wanted(entry.gap))
        )

    def candles_with_gaps(
        self, wanted: Callable[[Gap], bool], interval: int, starts: Sequence[int]
    ) -> dict[int, GapState]:
        """Return the worst state of the gaps in each candle of *interval*; *starts* are in order.

        A gap begins and ends with an event, so that the candles at both ends of it are there.
        """
        found: dict[int, GapState] = {}
        for entry in self._gaps.values():
            gap = entry.gap
            if gap.until < starts[0] or gap.since >= starts[-1] + interval or not wanted(gap):
                continue
            first = bisect_left(starts, gap.since // interval * interval)
            for start in starts[first : bisect_right(starts, gap.until)]:
                worst = found.get(start)
                if worst is None or _WORSE[gap.state] > _WORSE[worst]:
                    found[start] = gap.state
        return found


def _first(count: int, entries: Iterator[GapEntry]) -> list[GapEntry]:
    return [entry for entry, _ in zip(entries, range(count), strict=False)]
