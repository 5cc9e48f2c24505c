"""What the clocks have shown, and which times missed events may have by them.

The venue's clock may be set during a gap, ours at any time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tapeloom.events import OURS, Bar, Event
from tapeloom.plugin import Clock, ClockStepDetector

from .last_seen import LastSeen
from .open_gap import LastStored, OpenGap

#: In ns. The venue's clock was set if it advances by so much less or more than ours; less is delay.
CLOCK_STEP = 1_000_000_000
#: How many readings of the venue's clock are kept, one from each time that it was set.
_MAX_READINGS = 64
#: In ns. An event that is older does not show the venue's clock: ours may have been set since.
_MAX_AGE_NS = 10_000_000_000


class _Reading(NamedTuple):
    at: float  #: in monotonic seconds
    ahead: int  #: the venue's clock minus the monotonic one, in ns
    is_sure: bool  #: False: it may have been delay


class ClockReadings:
    """Reads the venue's clock by its last events, and ours by the monotonic one.

    What is missed has times of the clock as it was then, whatever it shows once the gap ends. Events of
    other subscriptions show it.
    """

    def __init__(self, clock: Clock, last_seen: LastSeen) -> None:
        self._clock = clock
        self._last_seen = last_seen
        self._own_clock = ClockStepDetector(clock)
        self._checked_at = clock.monotonic()
        self._checked: dict[tuple[str, str], Event] = {}  # the last events by then
        self._readings: deque[_Reading] = deque(maxlen=_MAX_READINGS)

    def own_offset(self) -> int:
        """Return how far our clock is ahead of the monotonic one, in ns."""
        return self._own_clock.read()

    def check(self) -> Mapping[tuple[str, str], Event]:
        """Notice which clocks were set since the last call; return the last events, as of `LastSeen`.

        To be called once a second, and before a gap begins: how old the last event is, cannot be told
        later.
        """
        own, before = self._own_clock, self._checked_at
        self._checked_at = self._clock.monotonic()
        if own.was_set():
            unchecked = round((self._checked_at - before) * 1_000_000_000)
            step = own.offset - own.previous_offset
            self._last_seen.own_clock_set(step, self._clock.time_ns(), unchecked)
        checked, self._checked = self._checked, self._last_seen.last_events()
        for key, event in self._checked.items():
            last = checked.get(key)
            if last is not None and last is not event and _shows_set_clock(last, event):
                self._read(event, is_sure=True)
        return self._checked

    def read_newest(self) -> None:
        """Read the venue's clock by the newest of the last events, for the gaps that are open by now.

        Those did not end on the connection that is lost now, but another subscription had an event.
        """
        timed = [event for event in self._checked.values() if _is_timed(event)]
        if timed:
            self._read(max(timed, key=lambda event: event.recv), is_sure=False)

    def venue_clock_set(self, offset: int) -> None:
        """Record that the venue's clock was set and is *offset* ns ahead of ours now."""
        self._add(_Reading(self._clock.monotonic(), offset + self._own_clock.offset, is_sure=True))

    def _read(self, event: Event, *, is_sure: bool) -> None:
        age = self._clock.time_ns() - event.recv
        if 0 <= age <= _MAX_AGE_NS:
            at = self._clock.monotonic() - age / 1e9
            self._add(_Reading(at, event.ts - event.recv + self._own_clock.offset, is_sure))

    def _add(self, new: _Reading) -> None:
        last = self._readings[-1] if self._readings else None
        is_same = last is not None and abs(last.ahead - new.ahead) <= CLOCK_STEP
        if is_same and last is not None and last.is_sure == new.is_sure:
            self._readings.pop()  # by another subscription
        self._readings.append(new)

    def times_between(self, gap: OpenGap, event: Event, batch: Iterable[Event]) -> tuple[int, int]:
        """Return the earliest and the latest time, in ns, that what was missed before *event* may have.

        They are those of *gap* and *event* unless the venue's clock was set in between: then each of its
        clocks may have given a time to any of it. *event* is of *batch*.
        """
        last, origin = gap.last, getattr(event, "origin", "history")
        # The time of a bar is its start, which tells no clock.
        if last is None or origin == "history" or (type(event) is Bar and event.ts >= gap.since):
            return gap.since, event.ts
        newest = _newest_ts(event, batch)
        elapsed = self.elapsed(gap, last, event.recv)
        times = self._venue_times(gap)
        since = min(last.ts, event.ts, newest - elapsed, *(time - elapsed for time in times))
        until = max(last.ts + elapsed, newest, *times)
        is_set_back = last.ts - since > CLOCK_STEP or event.ts < gap.since
        if not is_set_back and until - newest <= CLOCK_STEP:
            return gap.since, event.ts
        return min(since, gap.since) if is_set_back else gap.since, until

    def elapsed(self, gap: OpenGap, last: Event | LastStored, recv: int) -> int:
        """Return the ns from the arrival of *last* to *recv*, also if our clock was set during *gap*."""
        step = self.own_offset() - gap.opened[1]
        return max(recv - last.recv - (step if abs(step) > CLOCK_STEP else 0), 0)

    def _venue_times(self, gap: OpenGap) -> list[int]:
        """Return the times in ns that the venue's clock may show now, as it was set during a gap."""
        now = round(self._clock.monotonic() * 1_000_000_000)
        return [
            now + reading.ahead
            for reading in self._readings
            if reading.at >= (gap.last_at if reading.is_sure else gap.opened[0])
        ]


def _newest_ts(event: Event, batch: Iterable[Event]) -> int:
    """Return the latest time in ns that the venue's clock is known to have shown, given by *event* of *batch*.

    Past trades are older than their arrival, so the newest of the batch counts. If their times go back,
    the clock was set back among them: then the last of them counts.
    """
    if getattr(event, "origin", "live") == "live":
        return event.ts
    others = [other for other in batch if type(other) not in OURS]
    same = [other.ts for other in others if other.symbol == event.symbol]
    falls = [n for n in range(1, len(same)) if same[n - 1] - same[n] > CLOCK_STEP]
    return max(same[falls[-1] :] if falls else (other.ts for other in others))


def _is_timed(event: Event) -> bool:
    """Return whether the time of an event is that of the venue's clock as it came."""
    is_live = getattr(event, "origin", "") == "live"
    return is_live and type(event) is not Bar and event.ts != event.recv


def _shows_set_clock(last: Event, event: Event) -> bool:
    """Return whether the venue's clock was set between two events of a subscription.

    Delay makes times late, never early, and keeps their order.
    """
    ahead = (event.ts - event.recv) - (last.ts - last.recv)
    return _is_timed(event) and (ahead > CLOCK_STEP or last.ts - event.ts > CLOCK_STEP)
