"""`Health`: what the last two states of a stream say: connections, rates, queues, times of the stages."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen
from tapeloom.plugin import FeedState, QueueState, StageTime, StreamState


@frozen
class StageHealth:
    """A stage of a feed, between the last two states."""

    name: str
    microseconds_per_event: float  #: 0 if it was given no event
    load: float  #: the part of the time that it took; 1 is a whole core
    events_rate: float  #: events a second that it was given


@frozen
class FeedHealth:
    """A feed: its last state, and the rates since the one before."""

    state: FeedState
    rates: Mapping[str, float]  #: By counter, such as frames and bytes: so many a second.
    stages: tuple[StageHealth, ...]

    @property
    def connected(self) -> int:
        """How many of its connections are open."""
        return sum(found.connected_seconds is not None for found in self.state.connections)

    @property
    def condition(self) -> str:
        """Return "failed", "ended", "connecting" (no connection is open), "partial" or "live"."""
        if self.state.error:
            return "failed"
        if self.state.has_ended:
            return "ended"
        if self.state.connections and not self.connected:
            return "connecting"
        return "partial" if self.connected < len(self.state.connections) else "live"


@frozen
class QueueHealth:
    """The queue of a consumer, a callback or a sink."""

    state: QueueState
    received_rate: float  #: events a second
    dropped_rate: float  #: events a second that the consumer missed

    @property
    def fill(self) -> float:
        """How full it is: 1 means that its policy acts."""
        return self.state.waiting / self.state.size if self.state.size else 0.0


@frozen
class Health:
    """A stream: its last state, and the rates since the one before."""

    at: int  #: The time of the last state, in ns; 0 before the first.
    seconds: float  #: between the last two states
    feeds: tuple[FeedHealth, ...] = ()
    queues: tuple[QueueHealth, ...] = ()
    counters: Mapping[str, int] = field(factory=dict)
    rates: Mapping[str, float] = field(factory=dict)  #: By counter: so many a second.
    is_replay: bool = False


def health(before: StreamState | None, now: StreamState | None) -> Health:
    """Return what two states say; without the one before, all rates are 0."""
    if now is None:
        return Health(0, 0.0)
    seconds = max(now.at - before.at, 0) / 1e9 if before is not None else 0.0
    feeds = {feed.name: feed for feed in before.feeds} if before is not None else {}
    queues = {queue.name: queue for queue in before.queues} if before is not None else {}
    counters = before.counters if before is not None else {}
    return Health(
        now.at, seconds,
        tuple(_feed(feeds.get(feed.name), feed, seconds) for feed in now.feeds),
        tuple(_queue(queues.get(queue.name), queue, seconds) for queue in now.queues),
        dict(now.counters), _rates(counters, now.counters, seconds), now.is_replay,
    )  # fmt: skip


def _rate(before: float, now: float, seconds: float) -> float:
    # What was counted from anew, as by a consumer of the same name, has no rate yet.
    return max(now - before, 0) / seconds if seconds else 0.0


def _rates(before: Mapping[str, int], now: Mapping[str, int], seconds: float) -> dict[str, float]:
    return {name: _rate(before.get(name, 0), count, seconds) for name, count in now.items()}


def _feed(before: FeedState | None, now: FeedState, seconds: float) -> FeedHealth:
    if before is None:
        before, seconds = now, 0.0
    stages = tuple(
        _stage(name, before.stages.get(name, StageTime()), time, seconds)
        for name, time in now.stages.items()
    )
    return FeedHealth(now, _rates(before.counters, now.counters, seconds), stages)


def _stage(name: str, before: StageTime, now: StageTime, seconds: float) -> StageHealth:
    events, took = now.events - before.events, now.seconds - before.seconds
    return StageHealth(
        name, took / events * 1e6 if events > 0 else 0.0,
        took / seconds if seconds else 0.0, _rate(before.events, now.events, seconds),
    )  # fmt: skip


def _queue(before: QueueState | None, now: QueueState, seconds: float) -> QueueHealth:
    if before is None:
        before, seconds = now, 0.0
    return QueueHealth(
        now, _rate(before.received, now.received, seconds),
        _rate(before.dropped, now.dropped, seconds),
    )  # fmt: skip
