"""All event types by name."""

from __future__ import annotations

from .control import Event, Gap, Reject, Status
from .market import Bar, Book, Quote, Ticker, Trade

#: All event types by their `type`, the name that TOML, JSON and summaries use.
BY_TYPE: dict[str, type[Event]] = {
    cls.type: cls for cls in (Trade, Quote, Book, Bar, Ticker, Gap, Reject, Status)
}
