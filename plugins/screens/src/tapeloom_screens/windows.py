"""Windows of time: the rate of events, and the delays from the venue to us."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from itertools import islice
from operator import attrgetter

from tapeloom.events import BaseEvent

SECOND = 1_000_000_000
#: Whole seconds over which a rate is taken.
_RATE_SECONDS = 10
#: Over how long delays are looked at: long enough for a p99, short enough to follow.
LAG_NS = 30 * SECOND
#: Delays measured of a symbol: so many each time that events are sorted out, and so many a second besides.
#: Events of one read share their time, so that few tell as much; at four times a second it is 64 a second.
_LAGS_EACH_TIME, _LAGS_A_SECOND = 8, 32

_RECV = attrgetter("recv")


class Rate:
    """Events a second over the last whole seconds of our time."""

    __slots__ = ("_counts", "_first")

    def __init__(self) -> None:
        self._counts: deque[list[int]] = deque(maxlen=_RATE_SECONDS + 2)  # [second, events]
        self._first = 0

    def add(self, events: Sequence[BaseEvent]) -> None:
        """Count events, which are in order of our time."""
        start, end = 0, len(events)
        while start < end:
            second = events[start].recv // SECOND
            until = (second + 1) * SECOND
            if events[-1].recv < until:
                self._count(second, end - start)
                return
            after = bisect_left(events, until, start + 1, end, key=_RECV)
            self._count(second, after - start)
            start = after

    def count(self, recv: int, count: int) -> None:
        """Count so many events that were read at about *recv*, in ns."""
        self._count(recv // SECOND, count)

    def _count(self, second: int, count: int) -> None:
        self._first = self._first or second
        if self._counts and self._counts[-1][0] >= second:
            self._counts[-1][1] += count
        else:
            self._counts.append([second, count])

    def at(self, now: int) -> float:
        """Return the rate of the whole seconds before *now*, in ns; 0 in the first second."""
        end = now // SECOND
        seconds = min(_RATE_SECONDS, end - self._first)
        if seconds < 1:
            return 0.0
        found = sum(count for second, count in self._counts if end - seconds <= second < end)
        return found / seconds


class Lags:
    """The delays of live events, from the venue's time to ours, over the last half minute."""

    __slots__ = ("_found", "_lags", "_second")

    def __init__(self) -> None:
        self._lags: deque[tuple[int, int]] = deque()  # (recv, delay)
        self._second = -1  # when the percentiles were computed last
        self._found: tuple[int, int] | None = None

    def add(self, events: Sequence[BaseEvent], most: int) -> None:
        """Measure the live ones of *events*, evenly spaced ones of many; keep *most* delays."""
        seconds = max(events[-1].recv - events[0].recv, 0) / SECOND
        step = -(-len(events) // (_LAGS_EACH_TIME + int(seconds * _LAGS_A_SECOND)))
        self._lags.extend(
            (event.recv, event.recv - event.ts)
            for event in islice(events, 0, None, step)
            if getattr(event, "origin", "") == "live"
        )
        self.trim(most)

    def trim(self, most: int) -> None:
        """Drop the oldest delays: those beyond *most*, and those out of the window."""
        lags = self._lags
        while len(lags) > most:
            lags.popleft()
        while lags and lags[0][0] < lags[-1][0] - LAG_NS:
            lags.popleft()

    def percentiles(self, now: int, ahead: int) -> tuple[int | None, int | None]:
        """Return p50 and p99 of the window before *now*, of a clock that is *ahead* of ours, in ns.

        They are computed once a second of *now*.
        """
        if self._second != now // SECOND:
            self._second, self._found = now // SECOND, None
            found = sorted([delay for recv, delay in self._lags if recv >= now - LAG_NS])
            if found:
                last = len(found) - 1
                self._found = found[last // 2], found[-(-last * 99 // 100)]
        if self._found is None:
            return None, None
        return self._found[0] + ahead, self._found[1] + ahead
