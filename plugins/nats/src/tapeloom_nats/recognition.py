"""Recognises an event that two nodes have received: its key, its place, and which of them were passed on."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Hashable, Sequence
from itertools import takewhile
from typing import Any, TypeAlias

from attrs import evolve
from tapeloom.events import Book, Event, Gap, Quote, Trade

__all__ = [
    "MAX_KEPT", "WINDOW", "Ids", "Keys", "Order", "gap_between", "gaps_after_takeover", "is_recognisable",
    "order_of", "order_of_start",
]  # fmt: skip

#: In ns. For so long an event is recognised when it comes again. A copy may be late by so much.
WINDOW = 10_000_000_000
#: In ns. The distance of the times at which the newest place is kept.
_MARK = 1_000_000_000
#: How many ranges of ids are kept of a subscription, whatever their age.
_MAX_RANGES = 50_000
#: How many of them a reader keeps over a restart.
MAX_KEPT = 1_000

#: The place of an event among those of its subscription: its number, or its time in ns.
Order: TypeAlias = int


class Ids:
    """The ids that a numbered subscription has passed on, as ranges with the time of their last one."""

    def __init__(self, ranges: Sequence[tuple[int, int, int]] = ()) -> None:
        self.floor: Order = 0  #: what lies before it was passed on too long ago to be recognised
        self._lows = [low for low, _, _ in ranges]
        self._highs = [high for _, high, _ in ranges]
        self._times = [at for _, _, at in ranges]

    def ranges(self) -> list[tuple[int, int, int]]:
        """Return the newest ranges, the oldest first: the lowest id, the highest, and the time of the last."""
        found = zip(self._lows, self._highs, self._times, strict=True)
        return list(found)[-MAX_KEPT:]

    def __contains__(self, number: int) -> bool:
        highs = self._highs
        if not highs or number > highs[-1]:
            return False
        index = bisect_right(self._lows, number) - 1
        return index >= 0 and number <= highs[index]

    def add(self, number: int, at: int) -> None:
        """Add an id that was passed on at *at*, in ns."""
        lows, highs, times = self._lows, self._highs, self._times
        if highs and number == highs[-1] + 1:
            highs[-1], times[-1] = number, at
            return
        is_newest = not highs or number > highs[-1]
        index = len(highs) if is_newest else bisect_right(lows, number)
        lows.insert(index, number)
        highs.insert(index, number)
        times.insert(index, at)
        if times[0] < at - WINDOW or len(lows) > _MAX_RANGES:
            self._forget(at - WINDOW)

    def _forget(self, before: int) -> None:
        """Forget the lowest ranges as far as they are old, but not the newest one."""
        count = sum(1 for _ in takewhile(lambda time: time < before, self._times[:-1]))
        count = max(count, len(self._times) - _MAX_RANGES)
        if count:  # between this range and the next one, nothing was passed on
            self.floor = self._highs[count - 1] + 1
        for items in (self._lows, self._highs, self._times):
            del items[:count]


class Keys:
    """The keys that a subscription without numbers has passed on, each with its time."""

    def __init__(self) -> None:
        self._times: dict[Hashable, int] = {}
        self._marks: deque[tuple[int, Order]] = deque()  # what was newest at a time
        self._newest: Order = 0
        self._forgotten_until = -1  # the time of the last mark that was forgotten
        self.floor: Order = 0  #: what lies before it was passed on too long ago to be recognised

    def __contains__(self, key: Hashable) -> bool:
        return key in self._times

    def add(self, key: Hashable, at: int, order: Order = 0) -> None:
        """Add the key of an event with the place *order* that was passed on at *at*, in ns."""
        times, marks = self._times, self._marks
        times[key] = at
        self._newest = max(self._newest, order)
        if not marks or at > marks[-1][0] + _MARK:
            marks.append((at, self._newest))
        while marks[0][0] < at - WINDOW:
            self._forgotten_until, newest = marks.popleft()
            self.floor = newest + 1
        # What came after that mark may lie above the floor: it is known until the next one is forgotten.
        while (oldest := next(iter(times))) is not key and times[oldest] < self._forgotten_until:
            del times[oldest]

    def floor_since(self, at: int) -> Order:
        """Return the floor for who knows only the keys that were added since *at*, in ns."""
        if not self._times or self._times[next(reversed(self._times))] < at:
            return self._newest + 1
        # Nothing of the newest moment is left out: more of it may be on its way.
        newest = next((newest for time, newest in self._marks if time >= at), self._newest)
        return max(self.floor, min(newest + 1, self._newest))


def order_of(event: Event) -> Order:
    """Return the place of an event among those of its subscription."""
    if type(event) is Trade and type(event.id) is int:
        return event.id
    return event.ts


def is_recognisable(event: Event) -> bool:
    """Return whether an event is the same for two nodes: its time or number is the venue's."""
    if type(event) is Book:
        return event.last_id is not None or (event.kind == "snapshot" and event.ts != event.recv)
    if type(event) is Quote and event.sequence is not None:
        return True
    if type(event) is Trade and event.id != "":
        return True
    return event.ts != event.recv


def order_of_start(gap: Gap, last: Event) -> Order:
    """Return the place of the last event before a gap."""
    if type(last) is Trade and type(last.id) is int and type(gap.after_id) is int:
        return gap.after_id
    return gap.since


def gap_between(last: Event, following: Event, cause: Any) -> Gap:
    """Return the gap between two events of a subscription."""
    until = max(last.ts, following.ts)
    return Gap(
        following.venue, following.symbol, until, following.recv, last.ts, until, cause, None,
        "unrecoverable", following.channel,
    )  # fmt: skip


def gaps_after_takeover(last: Event | None, following: Event) -> list[Gap]:
    """Return the gap between the *last* event and the first of a copy that has just begun; none if there is none.

    Its node began beside another one, and did not continue after what that had published. If that one dies
    before it has brought what is before *following*, nobody else says that events may be missing.
    """
    if last is None or order_of(last) >= order_of(following):
        return []
    gap = gap_between(last, following, "restart")
    if type(last) is Trade and type(following) is Trade:
        low, high = last.id, following.id
        if type(low) is int and type(high) is int:
            if high == low + 1:
                return []
            gap = evolve(gap, after_id=low, before_id=high, missing=high - low - 1)
    return [gap]
