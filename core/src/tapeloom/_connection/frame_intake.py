"""What the connections of one feed share as they read: the guarded parser, the taps, the turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio

from tapeloom._compose.plan import FeedPlan
from tapeloom._runtime.taps import FrameTap
from tapeloom.events import Event, Reject
from tapeloom.plugin import Frames, Parse


class FrameIntake:
    """The parser of one feed, guarded; whoever listens to its frames; and whose turn it is to parse.

    `read_turns` is shared by all connections of a stream: where there is much to parse, one of them
    does so at a time.
    """

    def __init__(
        self,
        plan: FeedPlan,
        taps: Sequence[FrameTap] = (),
        read_turns: anyio.Semaphore | None = None,
    ) -> None:
        self.taps = list(taps)
        self.read_turns = read_turns or anyio.Semaphore(1, fast_acquire=True)
        self.parse = guarded(plan.parse, plan.feed.venue, self.unreadable)
        self._counters = plan.feed.counters

    def unreadable(self, recv: int, frame: bytes, error: str) -> None:
        """Count a frame that cannot be read, and tell the taps of it."""
        self._counters["unreadable_frames"] += 1
        for tap in self.taps:
            tap.unreadable(recv, frame, error)


def guarded(parse: Parse, venue: str, unreadable: Callable[[int, bytes, str], None]) -> Parse:
    """Return *parse* such that a frame at which it raises costs no other frame.

    The batch is then parsed frame by frame; a frame that raises becomes a Reject, and *unreadable*
    is told when it came, the frame and the error. Adapters need not catch what they cannot foresee.
    """

    def parsed(frames: Frames) -> list[Event]:
        try:
            return parse(frames)
        except Exception:
            events: list[Event] = []
            for frame in frames:
                try:
                    events += parse(Frames((frame,), frames.recv, frames.on_control))
                except Exception as error:
                    cause = f"{type(error).__name__}: {error}"
                    unreadable(frames.recv, frame, cause)
                    evidence = f"{cause}; {frame[:200].decode(errors='replace')}"
                    events.append(
                        Reject(venue, "", frames.recv, frames.recv, "parser_error", evidence)
                    )
            return events

    return parsed
