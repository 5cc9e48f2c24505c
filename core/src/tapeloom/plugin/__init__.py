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
from .feeds import (
    Feed,
    Frames,
    Listing,
    LiveTrades,
    Network,
    Parse,
    Sink,
    Stage,
    TimedStage,
)
from .history import History, Request, Want
from .protocol import (
    Ack,
    Codec,
    Delivering,
    Dial,
    Endpoint,
    Heartbeat,
    Link,
    Message,
    Notice,
    Pong,
    Refusal,
    Reply,
    Source,
    Take,
)
from .timing import Alarm, Clock, Steps, Times

__all__ = [
    "Ack", "Alarm", "Clock", "Codec", "Delivering", "Dial", "Endpoint", "Feed", "Frames",
    "Heartbeat", "History", "Link", "Listing", "LiveTrades", "Message", "Network", "Notice",
    "Parse", "Pong", "Refusal", "Reply", "Request", "Sink", "Source", "Stage", "Steps",
    "Subscription", "Take", "TimedStage", "Times", "Want", "channel_parts",
]  # fmt: skip
