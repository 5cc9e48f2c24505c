"""Runs the stages of a relayed feed: for each venue in it a set of its own, on the time of the events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from tapeloom._compose.plan import StageStep
from tapeloom._gaps.relayed_gaps import RelayedGaps
from tapeloom._stream.pipeline import Pipeline
from tapeloom.events import Event, Gap
from tapeloom.plugin import Feed, StageTime

#: In ns. Timed stages are this far behind the newest `recv`: events come from several machines, whose clocks
#: may differ by two seconds.
_TICK_DELAY = 2_500_000_000

_venue: Callable[[Event], str] = attrgetter("venue")
_symbol: Callable[[Event], str] = attrgetter("symbol")


class RelayPipeline:
    """The stages of a relayed feed, with the interface of `Pipeline`.

    Stages keep their state by symbol, and two venues may have the same symbol: so each venue has stages of
    its own, which see it as their feed's. Time passes for them with the events, not with our clock: events
    that waited in the broker give the same bars as those that did not. Events of the feed itself, such as a
    disconnect, pass by the stages.
    """

    timed = False  #: no timer is needed
    due: int | None = None

    def __init__(self, feed: Feed, steps: Sequence[StageStep]) -> None:
        self._feed = feed
        self._steps = tuple(steps)
        self._venues: dict[str, _VenuePipeline] = {}
        #: By the name of the stage: its instances by venue.
        self.stages: dict[str, dict[str, Any]] = {step.name: {} for step in steps}

    def __call__(self, events: list[Event]) -> list[Event]:
        """Process a batch with the stages of its venues."""
        if not self._steps or not events:
            return events
        venues = set(map(_venue, events))
        out = self.tick(events[-1].recv - _TICK_DELAY)
        if len(venues) == 1:
            return out + self._process(venues.pop(), events)
        by_venue: dict[str, list[Event]] = {}
        for event in events:
            by_venue.setdefault(event.venue, []).append(event)
        for venue, of_venue in by_venue.items():
            out += self._process(venue, of_venue)
        return out

    def _process(self, venue: str, events: list[Event]) -> list[Event]:
        if venue == self._feed.venue:
            return events
        pipeline = self._venues.get(venue)
        if pipeline is None:
            pipeline = self._venues[venue] = _VenuePipeline(self._feed, venue, self._steps)
            for name, stage in pipeline.stages.items():
                self.stages[name][venue] = stage
        return pipeline(events)

    def times(self) -> dict[str, StageTime]:
        """Return the time that each stage has taken, in all venues, since the first call."""
        total = {step.name: StageTime() for step in self._steps}
        for pipeline in [*self._venues.values()]:
            for name, time in pipeline.times().items():
                total[name] += time
        return total

    def tick(self, now: int) -> list[Event]:
        """Run timed stages that are due at *now*, in ns, and return their events."""
        return [event for pipeline in self._venues.values() for event in pipeline.tick(now)]

    def flush(self) -> list[Event]:
        """Flush every stage at the end of the feed and return the events they still held."""
        return [event for pipeline in self._venues.values() for event in pipeline.flush()]


class _VenuePipeline(Pipeline):
    """The stages of one venue."""

    def __init__(self, feed: Feed, venue: str, steps: Sequence[StageStep]) -> None:
        self._gaps = RelayedGaps(venue)
        self._symbols: list[str] = []
        self._seen = {""}
        of_venue = Feed(
            feed.name, venue, symbols=self._symbols, stages=feed.stages,
            stage_settings=feed.stage_settings, clock=feed.clock, random=feed.random,
            network=feed.network, counters=feed.counters, gaps=self._gaps,
        )  # fmt: skip
        # Without channels: the revisions of a venue's bars were counted where they were received.
        super().__init__(of_venue, [step.of(of_venue) for step in steps])

    def __call__(self, events: list[Event], first: int = 0) -> list[Event]:
        """Process a batch."""
        if not first:
            if new := set(map(_symbol, events)) - self._seen:
                self._seen |= new
                self._symbols += sorted(new)
            if Gap in set(map(type, events)):
                self._gaps.record(events)
        return super().__call__(events, first)

    def tick(self, now: int) -> list[Event]:
        """Run timed stages that are due at *now*, in ns, and return their events."""
        return super().tick(now) if self.timed else []
