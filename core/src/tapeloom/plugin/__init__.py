"""The types that plugin hooks take and return.

A hook takes one `Feed`, which can get more fields without breaking plugins. It returns an `Endpoint` (where
data comes from), a `Codec` (subscription messages and replies), a `History` (REST requests and answers), a
`Parse` (frames to events) or a `Stage` (events to events). None of them does I/O: core sends, receives,
reconnects and retries.

`feeds` has the feed, frames, parsers, stages and sinks; `protocol` endpoints, subscription messages and
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
    Network,
    Parse,
    Sink,
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
from .timing import NO_CLOCK, Clock, ClockOffset, ClockStepDetector, TimeLimit, WallDeadline

__all__ = [
    "NO_CLOCK",
    "Ack",
    "Clock",
    "ClockOffset",
    "ClockStepDetector",
    "Codec",
    "Dial",
    "Endpoint",
    "Feed",
    "Frames",
    "Gaps",
    "Heartbeat",
    "History",
    "HistoryQuery",
    "Link",
    "Listing",
    "Message",
    "Network",
    "Notice",
    "OnRead",
    "Parse",
    "Pong",
    "PushLink",
    "Refusal",
    "Reply",
    "Request",
    "Respond",
    "Sink",
    "Source",
    "Stage",
    "Subscription",
    "TimeLimit",
    "TimedStage",
    "TradeBatch",
    "UnfilledGaps",
    "Unrequested",
    "WallDeadline",
    "channel_parts",
]  # fmt: skip
