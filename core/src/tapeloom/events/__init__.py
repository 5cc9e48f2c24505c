"""What flows through tapeloom: trades, quotes, books, bars, and everything that went wrong.

`market` has the events that a venue reports, `control` those about the stream itself: gaps, rejects,
status. `registry` finds a type of event by its name, `json_lines` writes and reads events as JSON.
"""

from __future__ import annotations

from .base import utc
from .control import OURS, Event, Gap, Reject, Status
from .json_lines import decode, encode
from .market import Bar, Book, GapState, Levels, Origin, Quote, Side, Ticker, Trade
from .registry import BY_TYPE

__all__ = [
    "BY_TYPE",
    "OURS",
    "Bar",
    "Book",
    "Event",
    "Gap",
    "GapState",
    "Levels",
    "Origin",
    "Quote",
    "Reject",
    "Side",
    "Status",
    "Ticker",
    "Trade",
    "decode",
    "encode",
    "utc",
]  # fmt: skip
