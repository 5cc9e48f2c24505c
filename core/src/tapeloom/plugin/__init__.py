"""What a plugin is handed, and what it hands back.

A hook gets one `Feed`, which can grow without breaking a plugin. It returns one of the small things
here: an `Endpoint` says where data comes from, a `Codec` writes and reads the venue's subscription
messages, a `History` its REST calls, a `Parse` turns frames into events and a `Stage` events into
events. None of them does any I/O: they say what is to be sent and read what arrived. Core does the
rest.

`feeds` has the feed, frames, parsers, stages and sinks; `protocol` endpoints, subscription messages
and replies; `history` REST; `channels` channels and subscriptions; `timing` clocks. What those need
who write a transport is in `tapeloom.plugin.transports`.
"""

from __future__ import annotations

from .channels import Subscription, channel_parts
from .feeds import Feed, Frames, Listing, Network, Parse, Sink, Stage, TimedStage, TradeBatch
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
    Source,
)
from .timing import Clock, ClockOffset, ClockStepDetector, WallDeadline

__all__ = [
    "Ack",
    "Clock",
    "ClockOffset",
    "ClockStepDetector",
    "Codec",
    "Dial",
    "Endpoint",
    "Feed",
    "Frames",
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
    "Sink",
    "Source",
    "Stage",
    "Subscription",
    "TimedStage",
    "TradeBatch",
    "WallDeadline",
    "channel_parts",
]  # fmt: skip
