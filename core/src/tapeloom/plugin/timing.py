"""Clocks: the injected clock, detection of a wall clock that was set, deadlines, the venue's clock offset."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from tapeloom.events import OURS, Event

#: In ns. NTP slews a clock by at most a few ms between two checks; a larger step means that it was set.
_STEP = 500_000_000
#: In ns. An offset is remembered for one to two of these periods, so that a clock that is set is noticed.
_OFFSET_PERIOD = 60_000_000_000
#: The venue's clock is believed to be ahead after this many events in a row that agree on it, or after so
#: many over so many ns.
_MANY, _FEW, _FEW_NS = 20, 3, 60_000_000_000
#: In ns. Times of one subscription that are at most this far apart follow one another.
_SUCCESSIVE_NS = 1_000_000_000
#: In ns. A single time that is further ahead of ours does not move the clock offset.
_MAX_AHEAD_NS = 10_000_000_000
#: An offset in ns that is not known, below any real one.
_NO_OFFSET = -(1 << 63)
#: A receive time in ns before this is that of a tape without times: there is no clock to compare with.
NO_CLOCK = 1_000_000_000


class Clock(Protocol):
    """The injected clock. Everything that waits uses it, so that tests can run in virtual time."""

    def time_ns(self) -> int:
        """Return the wall clock's time in ns since 1970 UTC; it can be set back."""
        ...

    def monotonic(self) -> float:
        """Return seconds since an arbitrary moment; they never go back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for *seconds*."""
        ...


class ClockStepDetector:
    """Detects that the wall clock was set, by comparing it with the monotonic clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.offset = self.read()  #: The wall clock's time minus the monotonic clock's, in ns.
        self.previous_offset = self.offset  #: `offset` before the wall clock was set last, in ns.

    def read(self) -> int:
        """Return the wall clock's time minus the monotonic clock's, in ns, as it is now."""
        return self._clock.time_ns() - round(self._clock.monotonic() * 1_000_000_000)

    def was_set(self) -> bool:
        """Return whether the wall clock was set since the last call."""
        last, self.offset = self.offset, self.read()
        if abs(self.offset - last) <= _STEP:
            return False  # It was slewed, which clocks are all the time.
        self.previous_offset = last
        return True


class WallDeadline:
    """A deadline on the wall clock that stays correct when that clock is set.

    The distance to a deadline is measured when it is first passed to `reached`; from then on the
    monotonic clock counts. Whether the deadline was computed before or after the clock was set is not
    known: the nearer of the two is assumed.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._detector = ClockStepDetector(clock)
        self._due: int | None = None
        self._offset = 0

    def reached(self, due: int | None) -> int | None:
        """Return the time in ns, on the clock that *due* was computed with, if *due* is reached; else None."""
        detector = self._detector
        detector.was_set()
        elapsed = round(self._clock.monotonic() * 1_000_000_000)
        if due is not None and due != self._due:
            offsets = (detector.offset, detector.previous_offset)
            ahead = [offset for offset in offsets if due - offset >= elapsed]
            self._offset = max(ahead, default=detector.offset)
        self._due = due
        set_since = abs(self._offset - detector.offset) > _STEP
        now = elapsed + self._offset if set_since else self._clock.time_ns()
        return now if due is not None and due <= now else None


class TimeLimit:
    """Decides which times of a venue are believed: those not too far ahead of our clock.

    A venue sends what has happened, so its times are ahead only by the offset between the two clocks. A
    single time of the future must not move the time of a whole feed. A time is believed up to *max_ahead*
    in ns ahead of ours; once 20 events in a row agree that the venue's clock is further ahead, or 3 over a
    minute, up to *max_ahead* above that offset. A time that follows the last believed one within a second
    is believed at once: it is our clock that was set. *max_ahead* None: any time.
    """

    __slots__ = (
        "_ahead", "_first_recv", "_max_ahead", "_most", "allowed", "is_usual", "pending",
    )  # fmt: skip

    def __init__(self, max_ahead: int | None) -> None:
        self._max_ahead = max_ahead
        #: The largest ``ts - recv`` that is believed, in ns.
        self.allowed = (1 << 63) if max_ahead is None else max_ahead
        #: Whether no event was ahead lately. If not, `exceeds` must be called now and then with a believed
        #: event too, so that `allowed` can be lowered again.
        self.is_usual = True
        self.pending = 0  #: How many events in a row were not believed; 0 ends the row.
        self._ahead = 0  # by how much the last of them was ahead, in ns
        self._first_recv = 0  # when the first of them arrived; or since when `_most` is measured
        self._most = 0  # the largest believed ``ts - recv`` since `_first_recv`

    @property
    def agreed(self) -> str:
        """How many events in a row agree that the venue's clock is ahead, for an evidence."""
        return f"{self.pending} of {_MANY} in a row agree"

    def exceeds(self, ts: int, recv: int, last_ts: int | None = None) -> bool:
        """Return whether an event's time is not believed, and record it.

        *last_ts* is the last believed time of the same subscription, if there is one.
        """
        max_ahead, ahead = self._max_ahead, ts - recv
        if max_ahead is None or recv < NO_CLOCK:
            return False
        if ahead <= self.allowed:
            self._record_believed(max_ahead, ahead, recv)
            return False
        if self.pending and abs(ahead - self._ahead) <= max_ahead:
            self.pending += 1
        else:
            self.pending, self._first_recv = 1, recv
        self._ahead, self.is_usual = ahead, False
        follows = last_ts is not None and 0 <= ts - last_ts <= _SUCCESSIVE_NS
        agree = self.pending >= _MANY or (
            self.pending >= _FEW and recv - self._first_recv >= _FEW_NS
        )
        if not follows and not agree:
            return True
        self.pending, self.allowed = 0, ahead + max_ahead
        self._most, self._first_recv = ahead, recv
        return False

    def _record_believed(self, max_ahead: int, ahead: int, recv: int) -> None:
        """Lower `allowed` again once the clocks have come closer for a minute."""
        if self.pending:
            self.pending, self._most, self._first_recv = 0, ahead, recv
        self._most = max(self._most, ahead)
        if recv - self._first_recv >= _OFFSET_PERIOD:
            self.allowed = min(self.allowed, max_ahead + max(self._most, 0))
            self._most, self._first_recv = ahead, recv
        self.is_usual = self.allowed <= max_ahead


class ClockOffset:
    """The time of the last event per channel, and how far the venue's clock is ahead of ours.

    Times that a `TimeLimit` of 10 s does not believe are not used.
    """

    def __init__(self) -> None:
        self._last_ts: dict[str, int] = {}
        self._offsets: dict[str, _MaxOffset] = {}

    def update(self, events: Iterable[Event]) -> None:
        """Update the times and offsets from events, the oldest first."""
        last_ts, offsets = self._last_ts, self._offsets
        for event in events:
            ts, recv, channel = event.ts, event.recv, event.channel
            # An event that the venue sent without a time has ours.
            if ts == recv or type(event) in OURS:
                continue
            offset = offsets.get(channel)
            if offset is None:
                offset = offsets[channel] = _MaxOffset()
            limit, ahead = offset.limit, ts - recv
            is_usual = limit.is_usual and ahead <= limit.allowed
            if is_usual or not limit.exceeds(ts, recv, last_ts.get(channel)):
                last_ts[channel] = ts
                offset.add(ahead, recv)

    def mark_complete(self, channel: str, until: int) -> None:
        """Record that everything about a channel is reported up to *until*, in ns, or later."""
        self._last_ts[channel] = max(self._last_ts.get(channel, 0), until)

    def reset_offsets(self) -> None:
        """Forget the offsets, because our clock was set."""
        for offset in self._offsets.values():
            offset.reset()

    def last_ts(self, channel: str) -> int | None:
        """Return the venue's time of a channel's last event, in ns; None if there was none."""
        return self._last_ts.get(channel)

    @property
    def latest_ts(self) -> int:
        """The latest time of any channel, in ns; 0 if there is none."""
        return max(self._last_ts.values(), default=0)

    @property
    def has_offset(self) -> bool:
        """Whether the offset of any channel is known."""
        return self.largest is not None

    @property
    def largest(self) -> int | None:
        """How far the venue's clock is ahead of ours at least, in ns; None if not known."""
        most = max([offset.maximum for offset in [*self._offsets.values()]], default=_NO_OFFSET)
        return most if most > _NO_OFFSET else None

    def offset(self, channel: str) -> int:
        """Return how far the venue's clock is ahead of ours at least, in ns."""
        offset = self._offsets.get(channel)
        if offset is not None and offset.maximum > _NO_OFFSET:
            return offset.maximum
        return self.largest or 0


class _MaxOffset:
    """The maximum offset of a venue's clock over the last one to two minutes.

    The maximum counts, because a delayed event makes the offset look smaller. It expires, because a
    clock can be set.
    """

    __slots__ = ("_maximum", "_previous", "_since", "limit")

    def __init__(self) -> None:
        self.limit = TimeLimit(_MAX_AHEAD_NS)  #: which times are measured
        self.reset()

    def reset(self) -> None:
        """Forget all measurements."""
        self._since = self._maximum = self._previous = _NO_OFFSET

    def add(self, offset: int, recv: int) -> None:
        """Add a measurement that was made at *recv*, both in ns."""
        if recv - self._since > _OFFSET_PERIOD:
            self._since, self._previous, self._maximum = recv, self._maximum, offset
        elif offset > self._maximum:
            self._maximum = offset

    @property
    def maximum(self) -> int:
        """The maximum of the current and the previous period, in ns; `_NO_OFFSET` if there is none."""
        return max(self._maximum, self._previous)
