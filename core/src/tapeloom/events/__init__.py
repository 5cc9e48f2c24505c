"""The events that flow through tapeloom: market data, and gaps, rejects and status changes.

`market` has the events that a venue sends, `control` those about the stream itself. `closed_sets` has the
words that their fields take, `base` what all event classes have, and `json_lines` the JSON form. A plugin's
own event class is a subclass of `BaseEvent`, decorated with `event_class`.
"""

from __future__ import annotations

from .base import BY_TYPE, BaseEvent, event_class, utc
from .closed_sets import GapCause, GapState, Origin, QueuePolicy, RejectRule, Side, StatusState
from .control import OURS, Event, Gap, Reject, Status
from .json_lines import decode, encode
from .market import Bar, Book, Levels, Quote, Ticker, Trade

__all__ = [
    "BY_TYPE", "OURS", "Bar", "BaseEvent", "Book", "Event", "Gap", "GapCause", "GapState", "Levels", "Origin",
    "QueuePolicy", "Quote", "Reject", "RejectRule", "Side", "Status", "StatusState", "Ticker",
    "Trade", "decode", "encode", "event_class", "utc",
]  # fmt: skip
