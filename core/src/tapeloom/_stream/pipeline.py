"""The stages of one feed as one function.

What stands here runs for every batch; nothing in it knows a plugin manager.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from tapeloom._compose.plan import StageStep
from tapeloom.errors import StageFailed
from tapeloom.events import Event, Reject, Status
from tapeloom.plugin import Feed, Stage, TimedStage

log = structlog.get_logger()

#: A stage is made anew so many times within so many seconds; then it is set aside.
_MOST_RESTARTS, _WINDOW = 5, 60.0


class Pipeline:
    """The stages of one feed, in the order of the stack, as one function over batches.

    A stage that raises costs no connection and no event. It is made anew and gets its batch once
    more, event by event; the one at which it raises again becomes a Reject. Where that happens too
    often, or the stack says so, the stage is set aside; or else it ends the feed.
    """

    def __init__(self, feed: Feed, steps: Sequence[StageStep]) -> None:
        self._feed = feed
        self._steps = tuple(steps)
        self._restarts = [deque[float](maxlen=_MOST_RESTARTS) for _ in steps]  # when each was
        self._arrange([step.stage for step in steps])

    def _arrange(self, stages: Sequence[Stage]) -> None:
        self.stages = {step.name: stage for step, stage in zip(self._steps, stages, strict=True)}
        self._run = tuple(stages)
        self._timed = tuple(
            (place, stage) for place, stage in enumerate(self._run) if isinstance(stage, TimedStage)
        )

    def __call__(self, events: list[Event], first: int = 0) -> list[Event]:
        """Send a batch through the stages, beginning with the one at *first*.

        Raises StageFailed where a stage raises that is to end the feed.
        """
        place = first
        try:
            for stage in self._run[first:] if first else self._run:
                events = stage(events)
                place += 1
        except Exception as error:
            return self(self._failed(place, error, events), place + 1)
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
            if due is not None and due <= now:
                out += self._asked(place, partial(stage.tick, now))
        return out

    def flush(self) -> list[Event]:
        """End of the feed: return what the stages still hold."""
        out: list[Event] = []
        for place, stage in enumerate(self._run):
            flush: Callable[[], list[Event]] | None = getattr(stage, "flush", None)
            if flush is not None:
                out += self._asked(place, flush)
        return out

    def _asked(self, place: int, give: Callable[[], list[Event]]) -> list[Event]:
        """Return what a stage gives by itself, through the later stages."""
        try:
            events = give()
        except Exception as error:
            events = self._failed(place, error, [])
        return self(events, place + 1) if events else events

    # ------------------------------------------------------------------------- a stage that raises

    def _failed(self, place: int, error: Exception, events: list[Event]) -> list[Event]:
        """Do what the stack says with a stage that raised; return what stands for its answer.

        Raises StageFailed where the feed is to end.
        """
        feed, step, restarts = self._feed, self._steps[place], self._restarts[place]
        feed.counters["stage_errors"] += 1
        if step.on_error == "end":
            raise StageFailed(feed.name, step.name, error) from error
        what = f"stage {step.name!r} raised {type(error).__name__}: {error}"
        now = feed.clock.monotonic()
        often = len(restarts) == _MOST_RESTARTS and now - restarts[0] < _WINDOW
        aside = step.on_error == "disable" or often
        log.error(
            "stage_failed", feed=feed.name, stage=step.name, aside=aside, events=len(events),
            reason=what, exc_info=error,
        )  # fmt: skip
        if aside:
            self._replace(place, _passes)
            return [self._status("stage_disabled", f"{what}; it is left out from now on"), *events]
        restarts.append(now)
        stage = step.build()
        self._replace(place, stage)
        return [self._status("stage_restarted", what), *self._once_more(step.name, stage, events)]

    def _replace(self, place: int, stage: Stage) -> None:
        self._arrange([*self._run[:place], stage, *self._run[place + 1 :]])

    @staticmethod
    def _once_more(name: str, stage: Stage, events: list[Event]) -> list[Event]:
        out: list[Event] = []
        for event in events:
            try:
                out += stage([event])
            except Exception as error:
                evidence = f"stage {name!r} raised {type(error).__name__}: {error}"
                out.append(
                    Reject(
                        event.venue, event.symbol, event.ts, event.recv,
                        "stage_failed", evidence, event, event.channel,
                    )
                )  # fmt: skip
        return out

    def _status(self, state: str, detail: str) -> Status:
        now = self._feed.clock.time_ns()
        return Status(self._feed.venue, "", now, now, state, detail)


def _passes(events: list[Event]) -> list[Event]:
    """Stand for a stage that was set aside."""
    return events
