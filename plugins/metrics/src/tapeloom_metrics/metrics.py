"""Every metric: its name, kind, labels and meaning. The reference page is checked against this table."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

_FEED = ("feed", "venue")
_CHANNEL = ("feed", "venue", "channel")


@frozen
class Metric:
    """A metric. A counter's name ends with `_total`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    has_symbol: bool = False  #: whether it has the label `symbol` on request


METRICS = {
    metric.name: metric
    for metric in (
        Metric("tapeloom_events_total", "counter", (*_CHANNEL, "type"),
            "Events delivered to this sink.", has_symbol=True),
        Metric("tapeloom_last_event_timestamp_seconds", "gauge", _CHANNEL,
            "When the last market event was read, on our clock.", has_symbol=True),
        Metric("tapeloom_event_age_seconds", "histogram", _CHANNEL,
            "Time from the venue to our read, above that of the fastest event of the last two minutes."),
        Metric("tapeloom_handling_seconds", "histogram", ("consumer",),
            "Time from our read until the consumer took the event."),
        Metric("tapeloom_gaps_total", "counter", (*_CHANNEL, "cause", "verdict"),
            "Gaps by cause and state; one that is found and later filled counts once in each."),
        Metric("tapeloom_open_gaps", "gauge", _FEED,
            "Subscriptions with a gap that has not ended, or is being filled."),
        Metric("tapeloom_rejects_total", "counter", (*_FEED, "rule"),
            "Frames and events that were rejected."),
        Metric("tapeloom_statuses_total", "counter", (*_FEED, "state"),
            "Status events."),
        Metric("tapeloom_stalls_total", "counter", _CHANNEL,
            "Times that a subscription stalled: it was silent although its venue should have sent."),
        Metric("tapeloom_stalled_subscriptions", "gauge", _CHANNEL,
            "Subscriptions that are stalled now."),
        Metric("tapeloom_in_session", "gauge", ("venue",),
            "1 while the venue trades by the setting sessions, else 0."),
        Metric("tapeloom_books", "gauge", (*_FEED, "state"),
            "Order books by state: waiting, synced, stale, crossed."),
        Metric("tapeloom_feed_up", "gauge", _FEED,
            "1 while the feed runs, 0 once it has ended or failed."),
        Metric("tapeloom_connections", "gauge", (*_FEED, "state"),
            "Connections that are open or closed now."),
        Metric("tapeloom_subscriptions", "gauge", (*_FEED, "state"),
            "Subscriptions that are wanted, and that are live."),
        Metric("tapeloom_connections_opened_total", "counter", _FEED,
            "Connections opened."),
        Metric("tapeloom_reconnects_total", "counter", (*_FEED, "cause"),
            "Connections tried again after they were lost, or replaced before they ended."),
        Metric("tapeloom_resubscriptions_total", "counter", _FEED,
            "Subscriptions that were ended and started again on an open connection."),
        Metric("tapeloom_clock_offset_seconds", "gauge", _FEED,
            "By how much the venue's clock is ahead of ours, at least."),
        Metric("tapeloom_frames_total", "counter", _FEED,
            "Frames received."),
        Metric("tapeloom_received_bytes_total", "counter", _FEED,
            "Bytes of the payloads of the frames."),
        Metric("tapeloom_backfilled_events_total", "counter", _FEED,
            "Events delivered to fill gaps."),
        Metric("tapeloom_requests_total", "counter", _FEED,
            "REST requests sent."),
        Metric("tapeloom_stage_seconds_total", "counter", ("feed", "stage"),
            "Time that the stage took, since the first scrape."),
        Metric("tapeloom_stage_events_total", "counter", ("feed", "stage"),
            "Events given to the stage, since the first scrape."),
        Metric("tapeloom_queue_events", "gauge", ("consumer",),
            "Events that wait for the consumer."),
        Metric("tapeloom_queue_limit_events", "gauge", ("consumer",),
            "The most events that may wait for the consumer."),
        Metric("tapeloom_queue_received_total", "counter", ("consumer",),
            "Events put into the queue of the consumer."),
        Metric("tapeloom_dropped_total", "counter", ("consumer", "policy"),
            "Events that the consumer missed because its queue was full."),
        Metric("tapeloom_sink_up", "gauge", ("sink",),
            "1 while the store of the sink can be written, else 0."),
        Metric("tapeloom_sink_events_total", "counter", (),
            "Events stored by all sinks."),
        Metric("tapeloom_sink_errors_total", "counter", (),
            "Events that a store refused, and sinks that were disabled."),
        Metric("tapeloom_sink_retries_total", "counter", (),
            "Attempts of sinks to reach their stores again."),
        Metric("tapeloom_spooled_events", "gauge", (),
            "Events in the spools of sinks."),
        Metric("tapeloom_other_total", "counter", (*_FEED, "counter"),
            "Core's other counters and those of plugins, by name."),
    )
}  # fmt: skip

#: The metrics of counters of a feed.
OF_FEED = {
    "connections": "tapeloom_connections_opened_total",
    "resubscriptions": "tapeloom_resubscriptions_total",
    "frames": "tapeloom_frames_total",
    "bytes": "tapeloom_received_bytes_total",
    "backfilled": "tapeloom_backfilled_events_total",
    "requests": "tapeloom_requests_total",
}
#: The values of the label `cause` of `tapeloom_reconnects_total`, by counter.
RECONNECTS = {"reconnects": "lost", "replacements": "replaced"}
#: The metrics of counters of the whole stream.
OF_STREAM = {
    "sink_events": "tapeloom_sink_events_total",
    "sink_errors": "tapeloom_sink_errors_total",
    "sink_retries": "tapeloom_sink_retries_total",
    "spooled": "tapeloom_spooled_events",
}
#: Counters that other metrics have with labels: gaps, rejects and drops.
ELSEWHERE = frozenset({"gaps", "dropped"})
