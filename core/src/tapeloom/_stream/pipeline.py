"""Runs the stages of one feed on each batch of events (hot path; no plugin manager is involved)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

import structlog

from tapeloom._compose.plan import StageStep
from tapeloom.errors import StageFailed
from tapeloom.events import Event, Reject, Status
from tapeloom.plugin import Feed, Stage, StageTime, TimedStage, TradeBatch, channel_parts

from .bar_revisions import BarRevisions

log = structlog.get_logger()

#: A stage is disabled at the exception after this many restarts within this many seconds.
_MAX_RESTARTS, _WINDOW_SECONDS = 5, 60.0


class Pipeline:
    """The stages of one feed, in the order of the stack, as one function over batches.

    In a feed with bars of the venue, `BarRevisions` comes before the stages.

    A stage that raises is restarted: built again, and given the batch once more, event by event. An
    event for which it raises again becomes a Reject. With `on_error = "disable"`, or after too many
    restarts, the stage is disabled: events bypass it. With "end", the feed ends.
    """

    def __init__(self, feed: Feed, steps: Sequence[StageStep]) -> None:
        self._feed = feed
        self._steps = tuple(steps)
        has_bars = any(channel_parts(channel)[0] == "klines" for channel in feed.channels)
        self._revisions = BarRevisions(feed.counters) if has_bars else None
        self._watches: dict[str, _Stopwatch] | None = None
        self._restarts = [deque[float](maxlen=_MAX_RESTARTS) for _ in steps]  # seconds
        self._set_stages([step.stage for step in steps])

    def _set_stages(self, stages: Sequence[Stage]) -> None:
        self.stages = {step.name: stage for step, stage in zip(self._steps, stages, strict=True)}
        self._stages = tuple(stages)
        self._run = self._stages
        if self._watches is not None:
            watches = [self._watches[step.name] for step in self._steps]
            self._run = tuple(map(_Stopwatch.around, watches, stages))
        self._timed = tuple(
            (index, stage)
            for index, stage in enumerate(self._stages)
            if isinstance(stage, TimedStage)
        )

    def __call__(self, events: list[Event], first: int = 0) -> list[Event]:
        """Process a batch with the stages from index *first* on.

        Raises StageFailed if a stage with `on_error = "end"` raises.
        """
        index = first
        if not first and self._revisions is not None:
            events = self._revisions(events)
        try:
            for stage in self._run[first:] if first else self._run:
                events = stage(events)
                index += 1
        except Exception as error:
            return self(self._recover(index, error, events), index + 1)
        if type(events) is TradeBatch:
            events.feed = self._feed
        return events

    def times(self) -> dict[str, StageTime]:
        """Return the time that each stage has taken since the first call, which begins to measure it."""
        if self._watches is None:
            self._watches = {step.name: _Stopwatch() for step in self._steps}
            self._set_stages(self._stages)
        return {name: watch.time() for name, watch in self._watches.items()}

    @property
    def timed(self) -> bool:
        """Whether any stage is timed."""
        return bool(self._timed)

    @property
    def due(self) -> int | None:
        """The earliest time at which a stage is to be ticked, in ns; None if there is none."""
        dues = [due for _, stage in self._timed if (due := stage.due) is not None]
        return min(dues, default=None)

    def tick(self, now: int) -> list[Event]:
        """Run timed stages that are due at *now*, in ns, and return their events."""
        out: list[Event] = []
        for index, stage in self._timed:
            due = stage.due
            if due is not None and due <= now:
                out += self._call_stage(index, partial(stage.tick, now))
        return out

    def flush(self) -> list[Event]:
        """Flush every stage at the end of the feed and return the events they still held."""
        out: list[Event] = []
        for index, stage in enumerate(self._stages):
            flush: Callable[[], list[Event]] | None = getattr(stage, "flush", None)
            if flush is not None:
                out += self._call_stage(index, flush)
        return out

    def _call_stage(self, index: int, method: Callable[[], list[Event]]) -> list[Event]:
        """Call a stage's `tick` or `flush` and process its events with the later stages."""
        try:
            events = method()
        except Exception as error:
            events = self._recover(index, error, [])
        return self(events, index + 1) if events else events

    # ------------------------------------------------------------------------- a stage that raises

    def _recover(self, index: int, error: Exception, events: list[Event]) -> list[Event]:
        """Restart or disable a stage that raised for *events*; return the events for the next stage.

        Raises StageFailed if the stack says that the feed ends.
        """
        feed, step, restarts = self._feed, self._steps[index], self._restarts[index]
        feed.counters["stage_errors"] += 1
        if step.on_error == "end":
            raise StageFailed(feed.name, step.name, error) from error
        detail = f"stage {step.name!r} raised {type(error).__name__}: {error}"
        now = feed.clock.monotonic()
        too_often = len(restarts) == _MAX_RESTARTS and now - restarts[0] < _WINDOW_SECONDS
        disable = step.on_error == "disable" or too_often
        log.error(
            "stage_failed", feed=feed.name, stage=step.name, disabled=disable,
            events=len(events), reason=detail, exc_info=error,
        )  # fmt: skip
        if disable:
            self._replace(index, _disabled)
            return [self._status("stage_disabled", f"{detail}; events bypass it now"), *events]
        restarts.append(now)
        stage = step.build()
        self._replace(index, stage)
        return [self._status("stage_restarted", detail), *self._retry(step.name, stage, events)]

    def _replace(self, index: int, stage: Stage) -> None:
        self._set_stages([*self._stages[:index], stage, *self._stages[index + 1 :]])

    @staticmethod
    def _retry(name: str, stage: Stage, events: list[Event]) -> list[Event]:
        """Process *events* one at a time; each for which the stage raises becomes a Reject."""
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


class _Stopwatch:
    """Adds up the time of one stage."""

    def __init__(self) -> None:
        self._seconds, self._batches, self._events = 0.0, 0, 0

    def time(self) -> StageTime:
        """Return the sums."""
        return StageTime(self._seconds, self._batches, self._events)

    def around(self, stage: Stage) -> Stage:
        """Return *stage* as a function that is timed."""

        def run(events: list[Event]) -> list[Event]:
            self._batches += 1
            self._events += len(events)
            began = perf_counter()
            try:
                return stage(events)
            finally:
                self._seconds += perf_counter() - began

        return run


def _disabled(events: list[Event]) -> list[Event]:
    """Return *events* unchanged, in place of a disabled stage."""
    return events
