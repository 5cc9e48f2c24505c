"""The types that plugin hooks take and return.

A hook takes one `Feed`, which can get more fields without breaking plugins. It returns an `Endpoint` (where
data comes from), a `Codec` (subscription messages and replies), a `History` (REST requests and answers), a
`Parse` (frames to events) or a `Stage` (events to events). None of them does I/O: core sends, receives,
reconnects and retries. A plugin's own event class comes from `BaseEvent` and `event_class` in `tapeloom.events`.

`state` has what a running stream says of itself; `steering` what decides which symbols are streamed;
`feeds` the feed, frames, parsers and stages; `sinks` what a sink is given and returns; `relays` sources that pass on
another stream; `protocol` endpoints, subscription messages and
replies; `history` REST; `channels` channels and subscriptions; `timing` clocks; `telemetry` the names of
counters and log events. `tapeloom.plugin.transports` has what plugins need that open connections.
"""

from __future__ import annotations

from .channels import Subscription, channel_parts
from .feeds import (
    Feed,
    Frames,
    Gaps,
    Listing,
    Loss,
    Network,
    Parse,
    Stage,
    TimedStage,
    TradeBatch,
    UnfilledGaps,
)
from .history import History, HistoryQuery, Request
from .protocol import (
    Ack,
    Codec,
    Dial,
    Endpoint,
    Heartbeat,
    Link,
    Message,
    Notice,
    OnRead,
    Pong,
    PushLink,
    Refusal,
    Reply,
    Respond,
    Source,
    Unrequested,
)
from .relays import Cursor, Relay, RelayedBatch
from .sinks import CheckedSink, Guarantee, IdleSink, ObservingSink, Resume, Sink, SinkBatch, SinkRun
from .state import DELAY_BOUNDS, ConnectionState, FeedState, QueueState, StageTime, StreamState
from .steering import FeedOutline, Steered, SteeredFeed, Steering, StoredPositions
from .timing import NO_CLOCK, Clock, ClockOffset, ClockStepDetector, TimeLimit, WallDeadline

__all__ = [
    "DELAY_BOUNDS",
    "NO_CLOCK",
    "Ack",
    "CheckedSink",
    "Clock",
    "ClockOffset",
    "ClockStepDetector",
    "Codec",
    "ConnectionState",
    "Cursor",
    "Dial",
    "Endpoint",
    "Feed",
    "FeedOutline",
    "FeedState",
    "Frames",
    "Gaps",
    "Guarantee",
    "Heartbeat",
    "History",
    "HistoryQuery",
    "IdleSink",
    "Link",
    "Listing",
    "Loss",
    "Message",
    "Network",
    "Notice",
    "ObservingSink",
    "OnRead",
    "Parse",
    "Pong",
    "PushLink",
    "QueueState",
    "Refusal",
    "Relay",
    "RelayedBatch",
    "Reply",
    "Request",
    "Respond",
    "Resume",
    "Sink",
    "SinkBatch",
    "SinkRun",
    "Source",
    "Stage",
    "StageTime",
    "Steered",
    "SteeredFeed",
    "Steering",
    "StoredPositions",
    "StreamState",
    "Subscription",
    "TimeLimit",
    "TimedStage",
    "TradeBatch",
    "UnfilledGaps",
    "Unrequested",
    "WallDeadline",
    "channel_parts",
]  # fmt: skip
