"""What all connections of a feed share for reading: the guarded parser, taps, read turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio

from tapeloom._compose.plan import FeedPlan
from tapeloom._runtime.taps import FrameTap
from tapeloom.events import Event, Reject
from tapeloom.plugin import Frames, Parse
from tapeloom.plugin.bounds import reject_out_of_bounds


class FrameIntake:
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
        self.taps = list(taps)
        self.read_turns = read_turns or anyio.Semaphore(1, fast_acquire=True)
        self.parse = guarded(plan.parse, plan.feed.venue, self.unreadable)
        self._counters = plan.feed.counters

    def unreadable(self, recv: int, frame: bytes, error: str) -> None:
        """Count a frame that could not be parsed, and pass it to the taps."""
        self._counters["unreadable_frames"] += 1
        for tap in self.taps:
            tap.unreadable(recv, frame, error)


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
                    single = Frames((frame,), frames.recv, frames.on_control, frames.connection)
                    events += checked(single)
                except Exception as error:
                    cause = f"{type(error).__name__}: {error}"
                    unreadable(frames.recv, frame, cause)
                    evidence = f"{cause}; {frame[:200].decode(errors='replace')}"
                    events.append(
                        Reject(venue, "", frames.recv, frames.recv, "parser_error", evidence)
                    )
            return events

    return parse_guarded
