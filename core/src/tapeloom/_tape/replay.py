"""What the replays of all feeds of a stack share: the clock, the tapes, the order of time, the speed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import anyio
from attrs import Factory, define

from tapeloom.plugin import Clock

from .reader import Tape

#: Nanoseconds.
_SECOND = 1_000_000_000


@define
class TapeClock:
    """A clock that shows the time of the tape. Sleeping takes no time."""

    now: int = 0
    _at: tuple[int, float] = (0, 0.0)

    def set(self, now: int, monotonic: float) -> None:
        """Set both times, in ns and in seconds."""
        self.now, self._at = now, (now, monotonic)

    def time_ns(self) -> int:
        """Return the receive time of the current record, in ns."""
        return self.now

    def monotonic(self) -> float:
        """Return the time of that record on the monotonic clock, in seconds."""
        now, monotonic = self._at
        return monotonic + (self.now - now) / 1e9

    async def sleep(self, seconds: float) -> None:
        """Return at once."""


class Turns:
    """Lets the replays of several feeds run in order of time, one at a time."""

    def __init__(self, feeds: int) -> None:
        self._running = feeds  # feeds that run, or have yet to begin
        self._waiting: dict[str, tuple[int, anyio.Event]] = {}

    def is_next(self, recv: int) -> bool:
        """Return whether the running feed may go on: no other has a record earlier than *recv*, in ns."""
        first = min((other for other, _ in self._waiting.values()), default=recv)
        return self._running == 1 and recv <= first

    async def wait(self, feed: str, recv: int) -> None:
        """Let the others go on until *feed* has the earliest record, at *recv* in ns."""
        event = anyio.Event()
        self._waiting[feed] = recv, event
        self._running -= 1
        self._wake()
        await event.wait()

    def leave(self, feed: str) -> None:
        """Let the others go on: the tape of *feed* has ended."""
        if self._waiting.pop(feed, None) is None:
            self._running -= 1
        self._wake()

    def _wake(self) -> None:
        if not self._running and self._waiting:
            feed = min(self._waiting, key=lambda feed: self._waiting[feed][0])
            self._running = 1
            self._waiting.pop(feed)[1].set()


@define
class Recording:
    """The tapes that a stream replays by feed, and the batch size and speed of the replay."""

    tapes: Mapping[str, Tape]
    batch: int  #: maximum number of frames that the stages process at once; it changes no event
    speed: float | None  #: speed relative to the recording; None: as fast as possible
    wall: Clock  #: the clock for *speed*
    turns: Turns = Factory(lambda self: Turns(len(self.tapes)), takes_self=True)
    _start: tuple[int, float] | None = None

    def epoch(self, stack: str) -> int:
        """Return a number in ns since 1970 that is the same for each replay of these tapes with *stack*.

        It is the second in which the first tape begins, with a hash of the tapes and of *stack* in place
        of its nanoseconds. Reads the tapes.
        """
        digest = hashlib.blake2b(stack.encode(errors="backslashreplace"), digest_size=8)
        starts: list[int] = []
        for tape in self.tapes.values():
            with tape.path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
            starts.append(next((record.recv for record in tape), 0))
        return min(starts) // _SECOND * _SECOND + int.from_bytes(digest.digest()) % _SECOND

    def ahead(self, recv: int) -> float:
        """Return for how many seconds to wait with a record at *recv*, in ns; 0.0 if it is late."""
        if self.speed is None:
            return 0.0
        if self._start is None:
            self._start = recv, self.wall.monotonic()
        first, began = self._start
        return max(began + (recv - first) / 1e9 / self.speed - self.wall.monotonic(), 0.0)
