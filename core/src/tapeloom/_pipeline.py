"""The stages of one feed as one function, and the guard around its parser.

What stands here runs for every batch; nothing in it knows a plugin manager.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .errors import StageFailed
from .events import Event, Reject
from .feeds import Frames, Parse, Stage, TimedStage

__all__ = ["BadFrame", "BadFrames", "Pipeline", "guarded"]


class BadFrame(NamedTuple):
    """A frame that nobody could read, raw, and why."""

    recv: int
    frame: bytes
    error: str


class BadFrames:
    """The latest frames of one feed that nobody could read, as many as there is room for."""

    def __init__(self, counters: Counter[str]) -> None:
        self.latest: deque[BadFrame] = deque(maxlen=_KEPT)
        self._counters = counters

    def add(self, recv: int, frame: bytes, error: str) -> BadFrame:
        """Set a frame aside, raw, and count it."""
        self._counters["bad_frames"] += 1
        bad = BadFrame(recv, frame[:_LONGEST], error)
        self.latest.append(bad)
        return bad


class Pipeline:
    """The stages of one feed, in the order of the stack, as one function over batches."""

    def __init__(self, feed: str, stages: Sequence[tuple[str, Stage]]) -> None:
        self._feed = feed
        self.stages = dict(stages)
        self._run = tuple(stage for _, stage in stages)
        self._names = tuple(name for name, _ in stages)
        self._timed = tuple(
            (place, stage) for place, stage in enumerate(self._run) if isinstance(stage, TimedStage)
        )

    def __call__(self, events: list[Event], first: int = 0) -> list[Event]:
        """Send a batch through the stages, beginning with the one at *first*.

        Raises StageFailed where a stage raises.
        """
        place = first
        try:
            for stage in self._run[first:] if first else self._run:
                events = stage(events)
                place += 1
        except Exception as error:
            raise StageFailed(self._feed, self._names[place], error) from error
        return events

    @property
    def timed(self) -> bool:
        """Whether any stage acts when time passes."""
        return bool(self._timed)

    @property
    def due(self) -> int | None:
        """The earliest time at which a stage wants `tick`."""
        dues = [due for _, stage in self._timed if (due := stage.due) is not None]
        return min(dues, default=None)

    def tick(self, now: int) -> list[Event]:
        """Let time pass: return what the stages that wait for *now* give."""
        out: list[Event] = []
        for place, stage in self._timed:
            due = stage.due
            if due is None or due > now:
                continue
            try:
                events = stage.tick(now)
            except Exception as error:
                raise StageFailed(self._feed, self._names[place], error) from error
            if events:
                out += self(events, place + 1)
        return out

    def flush(self) -> list[Event]:
        """End of the feed: return what the stages still hold."""
        out: list[Event] = []
        for place, stage in enumerate(self._run):
            flush: Callable[[], list[Event]] | None = getattr(stage, "flush", None)
            if flush is None:
                continue
            try:
                events = flush()
            except Exception as error:
                raise StageFailed(self._feed, self._names[place], error) from error
            if events:
                out += self(events, place + 1)
        return out


def guarded(parse: Parse, venue: str, bad: BadFrames) -> Parse:
    """Return *parse* such that a frame at which it raises costs no other frame.

    The batch is then parsed frame by frame; what raises becomes a Reject, and is kept in *bad*.
    Adapters need not catch what they cannot foresee.
    """

    def parsed(frames: Frames) -> list[Event]:
        try:
            return parse(frames)
        except Exception:
            events: list[Event] = []
            for frame in frames:
                try:
                    events += parse(Frames((frame,), frames.recv, frames.aside))
                except Exception as error:
                    what = f"{type(error).__name__}: {error}"
                    events.append(_poison(venue, bad.add(frames.recv, frame, what)))
            return events

    return parsed


def _poison(venue: str, bad: BadFrame) -> Reject:
    text = bad.frame[:200].decode(errors="replace")
    evidence = f"{bad.error}; {text}"
    return Reject(venue, "", bad.recv, bad.recv, "parser_error", evidence)


#: So many bad frames are kept, and so many bytes of each.
_KEPT, _LONGEST = 100, 65_536
