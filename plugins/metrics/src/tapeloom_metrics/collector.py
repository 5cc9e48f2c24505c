"""Makes the metrics of one moment of the state of the stream and of what the events say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prometheus_client.registry import Collector
from tapeloom.events import OURS
from tapeloom.plugin import DELAY_BOUNDS, FeedState, StreamState

from .books import books_by_state
from .counts import AGE_BOUNDS, EventCounts
from .metrics import ELSEWHERE, OF_FEED, OF_STREAM, RECONNECTS
from .samples import Samples
from .sessions import Session, in_session

_BOUNDS: dict[str, Sequence[int]] = {
    "tapeloom_event_age_seconds": AGE_BOUNDS,
    "tapeloom_handling_seconds": DELAY_BOUNDS,
}


class StreamCollector(Collector):
    """The metrics of a stream, whose state *state* returns, and whose events *counts* has counted."""

    def __init__(
        self,
        state: Callable[[], StreamState],
        counts: EventCounts,
        sessions: Sequence[Session] = (),
        *,
        symbols: bool = False,
    ) -> None:
        self._state = state
        self._counts = counts
        self._sessions = sessions
        self._symbols = symbols

    def describe(self) -> list[Any]:
        """Return no metric: the stream is not asked before the first scrape."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield the metrics of now."""
        state, samples = self._state(), Samples(symbols=self._symbols)
        for feed in state.feeds:
            self._add_feed(feed, samples)
        self._add_stream(state, samples)
        self._add_queues(state, samples)
        self._add_events(state, samples)
        self._add_silence(state, samples)
        return samples.families(_BOUNDS)

    def _add_feed(self, feed: FeedState, samples: Samples) -> None:
        name, venue = place = feed.name, feed.venue
        samples.add("tapeloom_feed_up", int(not feed.has_ended), *place)
        samples.add("tapeloom_open_gaps", feed.open_gaps, *place)
        is_open = [connection.connected_seconds is not None for connection in feed.connections]
        samples.add("tapeloom_connections", sum(is_open), *place, "open")
        samples.add("tapeloom_connections", len(is_open) - sum(is_open), *place, "closed")
        wanted = len(feed.symbols) * len(feed.channels)
        samples.add("tapeloom_subscriptions", wanted, *place, "wanted")
        samples.add("tapeloom_subscriptions", len(feed.live), *place, "live")
        if feed.clock_offset is not None:
            samples.add("tapeloom_clock_offset_seconds", feed.clock_offset / 1e9, *place)
        for stage, time in feed.stages.items():
            samples.add("tapeloom_stage_seconds_total", time.seconds, name, stage)
            samples.add("tapeloom_stage_events_total", time.events, name, stage)
        for counter, metric in OF_FEED.items():
            samples.add(metric, feed.counters.get(counter, 0), *place)
        for counter, cause in RECONNECTS.items():
            count = feed.counters.get(counter, 0)
            samples.add("tapeloom_reconnects_total", count, *place, cause)
        _add_others(feed.counters, {*OF_FEED, *RECONNECTS}, samples, *place)
        for book_state, count in books_by_state(feed, self._counts.books).items():
            samples.add("tapeloom_books", count, name, venue, book_state)

    @staticmethod
    def _add_stream(state: StreamState, samples: Samples) -> None:
        """Add the counters that are those of no feed."""
        counters = Counter(state.counters)
        for feed in state.feeds:
            counters.subtract(feed.counters)
        for counter, metric in OF_STREAM.items():
            samples.add(metric, max(counters[counter], 0))
        _add_others(counters, set(OF_STREAM), samples, "", "")

    @staticmethod
    def _add_queues(state: StreamState, samples: Samples) -> None:
        for queue in state.queues:
            name = queue.name
            samples.add("tapeloom_queue_events", queue.waiting, name)
            samples.latest("tapeloom_queue_limit_events", queue.size, name)
            samples.add("tapeloom_queue_received_total", queue.received, name)
            samples.add("tapeloom_dropped_total", queue.dropped, name, queue.policy)
            if queue.is_sink:
                samples.add("tapeloom_sink_up", int(not queue.problem), name)
            if queue.delays and not state.is_replay:
                total = queue.delay_sum / 1e9
                samples.add_counts("tapeloom_handling_seconds", queue.delays, total, name)

    def _add_events(self, state: StreamState, samples: Samples) -> None:
        counts = self._counts
        for (kind, venue, symbol, channel), series in counts.series.copy().items():
            place = series.feed, venue, channel
            samples.add("tapeloom_events_total", series.count, *place, kind.type, symbol=symbol)
            if kind not in OURS:
                last = series.last / 1e9
                samples.latest("tapeloom_last_event_timestamp_seconds", last, *place, symbol=symbol)
        for place, ages in counts.ages.copy().items():
            buckets = [*ages.counts]
            if any(buckets) and not state.is_replay:
                samples.add_counts("tapeloom_event_age_seconds", buckets, ages.sum / 1e9, *place)
        for metric, counter in (
            ("tapeloom_gaps_total", counts.gaps),
            ("tapeloom_rejects_total", counts.rejects),
            ("tapeloom_statuses_total", counts.statuses),
        ):
            for labels, count in counter.copy().items():
                samples.add(metric, count, *labels)

    def _add_silence(self, state: StreamState, samples: Samples) -> None:
        """Add what is stalled, by the feeds that have the subscription still."""
        stalled = set(self._counts.stalled(state.at))
        for feed in state.feeds:
            venue = feed.venue
            is_open = in_session(self._sessions, venue, state.at)
            samples.latest("tapeloom_in_session", int(is_open), venue)
            for channel in feed.channels:
                keys = {(venue, symbol, channel) for symbol in feed.symbols}
                place = feed.name, venue, channel
                now = 0 if feed.has_ended else len(keys & stalled)
                samples.add("tapeloom_stalled_subscriptions", now, *place)
                count = sum(self._counts.stalls[key] for key in keys)
                samples.add("tapeloom_stalls_total", count, *place)


def _add_others(counters: Any, others: set[str], samples: Samples, feed: str, venue: str) -> None:
    """Add the counters that have no metric of their own."""
    for counter, count in counters.items():
        if count and counter not in others | ELSEWHERE and not counter.startswith("reject."):
            samples.add("tapeloom_other_total", count, feed, venue, counter)
