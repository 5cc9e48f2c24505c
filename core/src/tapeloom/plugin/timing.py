"""Clocks: the one that is injected, one that is set, and how far the venue's clock is ahead of ours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from tapeloom.events import OURS, Event


class Clock(Protocol):
    """The time, injected. Everything that waits, waits on this."""

    def time_ns(self) -> int:
        """Nanoseconds since 1970 UTC; may be set back by whoever keeps the machine."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class ClockStepDetector:
    """Notices when the wall's clock is set: it has moved against the seconds that really passed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.offset = self._read()  #: of the wall's clock from the seconds, in ns
        self.before = self.offset  #: the same before it was set last

    def _read(self) -> int:
        return self._clock.time_ns() - round(self._clock.monotonic() * 1_000_000_000)

    def look(self) -> bool:
        """Return whether it was set since the last look."""
        last, self.offset = self.offset, self._read()
        if abs(self.offset - last) <= _STEP:
            return False  # it is slewed, as clocks are
        self.before = last
        return True


class WallDeadline:
    """Says when a time on the wall's clock has come, though that clock be set while it is awaited.

    How far away a time is, is measured when it is first asked for; from then on only the seconds
    count that really pass. It may have been made before the clock was set, or after: it is taken for
    the nearer one.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._steps = ClockStepDetector(clock)
        self._due: int | None = None
        self._offset = 0

    def rings(self, due: int | None) -> int | None:
        """Return the time it is, on the clock that *due* is of, where *due* has come; else None."""
        steps = self._steps
        steps.look()
        seconds = round(self._clock.monotonic() * 1_000_000_000)
        if due is not None and due != self._due:
            ahead = [one for one in (steps.offset, steps.before) if due - one >= seconds]
            self._offset = max(ahead, default=steps.offset)
        self._due = due
        set_since = abs(self._offset - steps.offset) > _STEP
        now = seconds + self._offset if set_since else self._clock.time_ns()
        return now if due is not None and due <= now else None


#: By more than so many ns at once no clock is slewed.
_STEP = 500_000_000


class ClockOffset:
    """The times of one session's channels."""

    def __init__(self) -> None:
        self._watermarks: dict[str, int] = {}
        self._offsets: dict[str, _MaxOffset] = {}

    def update(self, events: Iterable[Event]) -> None:
        """Look at events, the oldest first."""
        watermarks, offsets = self._watermarks, self._offsets
        for event in events:
            ts, recv, channel = event.ts, event.recv, event.channel
            # What a venue sends without a time bears ours.
            if ts == recv or type(event) in OURS:
                continue
            watermarks[channel] = ts
            offset = offsets.get(channel)
            if offset is None:
                offsets[channel] = _MaxOffset(ts - recv, recv)
            else:
                offset.update(ts - recv, recv)

    def advance_watermark(self, channel: str, ts: int) -> None:
        """Take note that all was said of a channel, up to then at the least."""
        self._watermarks[channel] = max(self._watermarks.get(channel, 0), ts)

    def reset_offsets(self) -> None:
        """Take note that our clock was set: how far the venue's is ahead of it is to be seen anew."""
        self._offsets.clear()

    def watermark(self, channel: str) -> int | None:
        """Return the time of the last event of a channel, None where there was none."""
        return self._watermarks.get(channel)

    @property
    def latest(self) -> int:
        """The last time of any channel, 0 where there is none."""
        return max(self._watermarks.values(), default=0)

    @property
    def has_offset(self) -> bool:
        """Whether the distance of any of the venue's clocks is known."""
        return bool(self._offsets)

    def offset(self, channel: str) -> int:
        """Return how far its clock runs ahead of ours, at the least."""
        offset = self._offsets.get(channel)
        if offset is not None:
            return offset.most
        return max((offset.most for offset in self._offsets.values()), default=0)


class _MaxOffset:
    """How far a clock of the venue runs ahead of ours: the most of the last minute or two.

    What comes late tells nothing, so the most counts; and a clock can be set, so not for ever.
    """

    __slots__ = ("_began", "_most", "_older")

    def __init__(self, offset: int, recv: int) -> None:
        self._began = recv
        self._most = self._older = offset

    def update(self, offset: int, recv: int) -> None:
        """Take note of one that was seen."""
        if recv - self._began > _WHILE:
            self._began, self._older, self._most = recv, self._most, offset
        elif offset > self._most:
            self._most = offset

    @property
    def most(self) -> int:
        """The most that was seen."""
        return max(self._most, self._older)


#: For so many ns the distance of a clock is remembered, once as the newest and once as the older.
_WHILE = 60_000_000_000
