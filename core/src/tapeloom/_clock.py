"""The clock of a live stream: the machine's time, the event loop's waiting; and clocks that are set."""

from __future__ import annotations

import time

import anyio

from .feeds import Clock

__all__ = ["Alarm", "Steps", "SystemClock"]


class SystemClock:
    """Time as the machine keeps it."""

    time_ns = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await anyio.sleep(seconds)


class Steps:
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


class Alarm:
    """Says when a time on the wall's clock has come, though that clock be set while it is awaited.

    How far away a time is, is measured when it is first asked for; from then on only the seconds
    count that really pass. It may have been made before the clock was set, or after: it is taken for
    the nearer one.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._steps = Steps(clock)
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
