"""Where frames enter: counted, passed to the taps, parsed under a guard, their events passed on.

A live connection reads through its `FrameIntake`, and so can a replay. A feed has one `FeedIntake`,
which holds what the intakes of its connections share.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio
import anyio.lowlevel

from tapeloom._compose.plan import FeedPlan
from tapeloom._runtime.event_loop import DONE
from tapeloom._runtime.taps import FrameTap
from tapeloom.events import Event, Reject
from tapeloom.plugin import Frames, Parse
from tapeloom.plugin.bounds import reject_out_of_bounds

from .keep_alive import Deadlines

#: Maximum number of frames parsed and processed together. Larger batches gain nothing, delay their
#: first event, and outgrow the garbage collector's youngest generation.
MAX_BATCH = 256
#: Maximum number of frames parsed within the read callback; a larger read is parsed in parts.
_MAX_INLINE = 64

_new: Callable[[type[Frames]], Frames] = Frames.__new__


class FeedIntake:
    """The guarded parser of one feed and the taps that receive its frames.

    `read_turns` is a semaphore shared by all connections of a stream: only one of them parses a
    large read at a time.
    """

    def __init__(
        self,
        plan: FeedPlan,
        taps: Sequence[FrameTap] = (),
        read_turns: anyio.Semaphore | None = None,
    ) -> None:
        self.feed = plan.feed
        self.taps = list(taps)
        self.read_turns = read_turns or anyio.Semaphore(1, fast_acquire=True)
        self.parse = guarded(plan.parse, plan.feed.venue, self.unreadable)

    def unreadable(self, recv: int, frame: bytes, error: str) -> None:
        """Count a frame that could not be parsed, and pass it to the taps."""
        self.feed.counters["unreadable_frames"] += 1
        for tap in self.taps:
            tap.unreadable(recv, frame, error)

    def reject(self, recv: int, frame: bytes) -> Reject:
        """Count a frame that the codec cannot read either, pass it to the taps, and return its Reject."""
        self.unreadable(recv, frame, "unreadable_frame")
        return unreadable_frame(self.feed.venue, recv, frame)


class FrameIntake:
    """Takes the frames of one connection, of a socket or of a tape, and passes on their events.

    *on_control* is called with each frame that is not market data and returns the events that stand
    in its place. *on_events* is called with the events of each read that has any; it returns `DONE`,
    or an awaitable to await before the next read. `connection` is the number of the connection in
    its feed, from 1. Only a live connection has *deadlines*.
    """

    def __init__(
        self,
        shared: FeedIntake,
        on_control: Callable[[bytes], Sequence[Event]],
        on_events: Callable[[list[Event]], Awaitable[None]],
        deadlines: Deadlines | None = None,
    ) -> None:
        self.connection = 0
        self.last_recv = 0  #: when the last frames arrived, in ns
        self.reads = 0  #: number of reads, or parts of large reads, that had events
        self.deadlines = deadlines or Deadlines()
        self._parse = shared.parse
        self._taps = shared.taps
        self._read_turns = shared.read_turns
        self._counters = shared.feed.counters
        self._clock = shared.feed.clock
        self._on_control = on_control
        self._on_events = on_events

    def on_read(self, payloads: list[bytes], recv: int | None = None) -> Awaitable[None] | None:
        """Parse and deliver the frames of one read (hot path).

        *recv* is the time of the read in ns, None for now. A large read is parsed in parts, by the
        awaitable that is returned. It must be awaited before the next read; None: nothing is left
        to do.
        """
        self.deadlines.last_byte = self._clock.monotonic()
        if not payloads:
            self.deadlines.record_control_frame()
            return None
        self.last_recv = self._clock.time_ns() if recv is None else recv
        self._counters["frames"] += len(payloads)
        return self._push(payloads) if len(payloads) <= _MAX_INLINE else self._push_parts(payloads)

    async def _push_parts(self, payloads: list[bytes]) -> None:
        """Parse and deliver a large read in parts, alternating with the stream's other connections.

        After each part the consumers run: they release its events before the garbage collector
        visits them, and while they are still in the processor's cache.
        """
        with anyio.CancelScope(shield=True):  # what was read is delivered
            for start in range(0, len(payloads), MAX_BATCH):
                await self._read_turns.acquire()
                try:
                    waiting = self._push(payloads[start : start + MAX_BATCH])
                    if waiting is None:
                        await anyio.lowlevel.checkpoint()
                finally:
                    self._read_turns.release()
                if waiting is not None:
                    await waiting

    def _push(self, payloads: list[bytes]) -> Awaitable[None] | None:
        """Parse frames and pass on their events."""
        frames = _new(Frames)  # setting the attributes here takes a third of the time of __init__
        frames += payloads
        frames.recv, frames.on_control = self.last_recv, self._on_control
        frames.connection = self.connection
        events = self._parse(frames)
        size = sum(map(len, payloads))
        self._counters["bytes"] += size
        for tap in self._taps:  # after the facts that result from parsing
            tap.frames(self.connection, self.last_recv, payloads, size)
        if not events:
            return None
        self.reads += 1
        waiting = self._on_events(events)
        return None if waiting is DONE else self._wait_for_consumer(waiting)

    async def _wait_for_consumer(self, waiting: Awaitable[None]) -> None:
        deadlines = self.deadlines
        deadlines.is_blocked = True
        await waiting
        deadlines.is_blocked = False
        now = self._clock.monotonic()
        deadlines.not_read_for(now - deadlines.last_byte, now)


def unreadable_frame(venue: str, recv: int, frame: bytes) -> Reject:
    """Return the Reject of a frame that is neither market data nor a known reply; *recv* is in ns."""
    text = frame[:500].decode(errors="replace")
    return Reject(venue, "", recv, recv, "unreadable_frame", text)


def guarded(parse: Parse, venue: str, unreadable: Callable[[int, bytes, str], None]) -> Parse:
    """Return *parse* with a guard: a frame at which it raises does not cost any other frame.

    If a batch raises, it is parsed again frame by frame. A frame that raises becomes a Reject with
    the rule "parser_error", and *unreadable* is called with its receive time, the frame and the
    error. So parsers need not catch errors that they do not expect. An event with a value out of
    bounds becomes a Reject as well.
    """

    def parse_and_check(frames: Frames) -> list[Event]:
        return reject_out_of_bounds(parse(frames))

    checked = parse if getattr(parse, "within_bounds", False) else parse_and_check

    def parse_guarded(frames: Frames) -> list[Event]:
        try:
            return checked(frames)
        except Exception:
            events: list[Event] = []
            for frame in frames:
                try:
                    events += checked(
                        Frames((frame,), frames.recv, frames.on_control, frames.connection)
                    )
                except Exception as error:
                    cause = f"{type(error).__name__}: {error}"
                    unreadable(frames.recv, frame, cause)
                    evidence = f"{cause}; {frame[:200].decode(errors='replace')}"
                    events.append(
                        Reject(venue, "", frames.recv, frames.recv, "parser_error", evidence)
                    )
            return events

    return parse_guarded
