"""The names of counters and log events, each with its meaning.

Every name has a line ``#: name: meaning`` above its set. `docs/reference/words.md` is made from these lines.
Core and the official plugins use only these names; plugins may add counters of their own to `Feed.counters`.
"""

from __future__ import annotations

from typing import Literal

#: What is counted, in `Feed.counters` and, over all feeds, in `Stream.counters`.
#: frames: Frames received.
#: bytes: Bytes of the payloads of the frames.
#: control_frames: Frames that the parser passed to `Frames.on_control`.
#: unreadable_frames: Frames that neither the parser nor the codec could read.
#: connections: Connections opened.
#: reconnects: Connections and sources that ended or failed and were tried again.
#: replacements: Connections replaced before they ended, without a gap.
#: resubscriptions: Subscriptions that were ended and started again on an open connection.
#: gaps: Gaps found.
#: missing: Trades missing in gaps of the venue's ids (quality).
#: backfilled: Events delivered to fill gaps.
#: requests: REST requests sent.
#: unrequested: Frames or items of symbols, channels or kinds that the feed has not requested.
#: unsupported: Items of a kind that the plugin does not support (alpaca).
#: repeats: Closed bars, and quotes (bybit), that the venue sent again unchanged.
#: repeated_trades: Trades that came again after they had been delivered.
#: quiet_notices: Messages of the gateway that carry no information (ib).
#: token_loops: Pages with a page token that had been sent before (alpaca).
#: stale_books: Order books that lost updates and had to be loaded again (books).
#: crossed_books: Order books that were crossed and had to be loaded again (books).
#: stage_errors: Exceptions raised by stages.
#: sink_errors: Events that a sink's store refused, and sinks that were disabled.
#: sink_events: Events stored by sinks.
#: sink_retries: Attempts of sinks to reach their stores again.
#: spooled: Events in the spools of sinks.
#: callback_errors: Exceptions raised by callbacks.
#: dropped: Events dropped by full queues.
#: overflows: Callbacks and sinks that ended because their queue with the policy "error" was full.
#: tape_errors: Failed attempts to write a recording.
#: tape_lost: Frames that are missing in a recording.
#: flight_errors: Failed attempts to write a bundle of the flight recorder.
#: relay_pending: Messages of the stream that wait to be read (nats).
#: fenced_messages: Messages of nodes that had lost their lease; they are not read (nats).
#: replica_repeats: Events that another copy of the shard had brought before (nats).
#: replica_late: Trades that came after newer ones, as backfilled; or too early ones, which are dropped (nats).
#: replica_conflicts: Events that two copies gave with one number and different content (nats).
#: replica_first.*: Events that the copy after the dot had before another one (nats).
#: replica_lead_us.*: By how many microseconds it had them before, in total (nats).
#: reject.*: Events rejected by the rule that follows the dot (quality).
#: chaos_*: Faults injected of the kind that follows the underscore (chaos).
CounterName = Literal[
    "frames", "bytes", "control_frames", "unreadable_frames", "connections", "reconnects",
    "replacements", "resubscriptions", "gaps", "missing", "backfilled", "requests", "unrequested",
    "unsupported", "repeats", "repeated_trades", "quiet_notices", "token_loops", "stale_books",
    "crossed_books", "stage_errors", "sink_errors", "sink_events", "sink_retries", "spooled", "callback_errors", "dropped", "overflows",
    "tape_errors", "tape_lost", "flight_errors", "relay_pending", "fenced_messages", "replica_repeats",
    "replica_late", "replica_conflicts", "replica_first.*", "replica_lead_us.*", "reject.*", "chaos_*",
]  # fmt: skip

#: What is logged, with structlog. Only changes of state are logged, never single messages.
#: feed_connected: A connection is open.
#: feed_reconnecting: A connection or source ended or failed and is tried again after `delay` seconds.
#: feed_failed: A feed ended with an error.
#: steering_failed: What decides which symbols are streamed, such as a cluster, cannot go on; the stream ends.
#: connection_abandoned: A connection failed for good or too often; other connections of the feed go on.
#: successor_failed: A second connection, opened to replace an old one, ended; another one is tried.
#: subscription_refused: The venue refused a subscription, or has no data of a symbol.
#: subscription_stalled: No event arrived for a subscription for much longer than usual.
#: venue_clock: The venue's timestamps stopped, advance again, or moved against ours.
#: symbols_unchecked: The venue's list of instruments could not be requested; names formed by rule are used.
#: request_failed: A REST request failed and is tried again, or was refused.
#: request_abandoned: A REST request failed for good.
#: request_impossible: The adapter raised while it built a request.
#: stage_failed: A stage raised; `aside` says whether it is left out from now on.
#: callback_failed: A callback raised; `failed_at` is the event.
#: sink_unavailable: A store cannot be reached and is tried again after `delay` seconds.
#: sink_recovered: A store can be reached again, after `attempts` attempts.
#: sink_failed: A store refused an event, which is set aside in the file `path`; or closing a sink failed.
#: sink_disabled: A store cannot be used; `events_lost` is how many events were queued for it, `spooled` how
#: many are in its spool.
#: sink_conflict: A store has an event with the same identity and another content; both are in `table` (postgres).
#: sink_incomplete: A sink ended before it had stored all; `events_lost` is how many events are not stored.
#: sink_position_unreadable: A store returned a position that is not one: no gap is reported for it.
#: spool_failed: A spool cannot be written, mostly because it or its disk is full, or not be read. It is tried
#: again, and meanwhile the queue of the sink fills up.
#: consumer_overflowed: The queue of a callback or sink with the policy "error" was full, and it was ended.
#: relay_stream_lost: The stream that a relay has read was deleted, or lost its last messages (nats).
#: reader_memory_unreadable: What a reader kept is of another version; it may repeat what came just before (nats).
#: drain_incomplete: Callbacks did not process what was queued within the time allowed at the end.
#: tape_failed: A recording could not be written; it is tried again.
#: tape_incomplete: Frames are missing in a recording, because it could not be written in time.
#: flight_saved: The flight recorder wrote a bundle; `why` is the incident, `path` the file.
#: flight_failed: The flight recorder could not write a bundle or an unreadable frame.
#: frame_incomplete: A frame left out an event that fits no exact column; later ones are counted (frames).
#: cluster_joined: The node has joined its cluster (cluster).
#: cluster_lease_ended: The node has lost its lease, and publishes nothing until it has joined again (cluster).
#: cluster_unavailable: The bucket with the leases cannot be reached; it is tried again (cluster).
#: shard_end_missing: A shard was released before all that was read of it was published (cluster).
#: store_unreadable: The candles of the time before the stream could not be read from `folder` (web).
#: metrics_listening: Metrics are served at `host` and `port` (metrics).
#: metrics_unsent: The receiver of metrics at `endpoint` did not take them; it is tried again (metrics).
#: metrics_sent: It takes them again (metrics).
#: chaos_injected: A fault was injected (chaos).
LogEvent = Literal[
    "feed_connected", "feed_reconnecting", "feed_failed", "steering_failed", "connection_abandoned",
    "successor_failed", "subscription_refused", "subscription_stalled", "venue_clock",
    "symbols_unchecked", "request_failed", "request_abandoned", "request_impossible",
    "stage_failed", "callback_failed", "sink_unavailable", "sink_recovered", "sink_failed", "sink_disabled",
    "sink_conflict", "sink_incomplete", "sink_position_unreadable", "spool_failed", "consumer_overflowed",
    "relay_stream_lost", "reader_memory_unreadable", "drain_incomplete", "tape_failed", "tape_incomplete", "flight_saved", "flight_failed",
    "frame_incomplete", "store_unreadable", "cluster_joined", "cluster_lease_ended", "cluster_unavailable", "shard_end_missing",
    "metrics_listening", "metrics_unsent", "metrics_sent", "chaos_injected",
]  # fmt: skip
