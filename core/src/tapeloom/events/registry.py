"""Every type of event by its name."""

from __future__ import annotations

from .control import Event, Gap, Reject, Status
from .market import Bar, Book, Quote, Ticker, Trade

#: Every type of event by its `type`, the word that TOML, JSON and summaries use.
BY_TYPE: dict[str, type[Event]] = {
    cls.type: cls for cls in (Trade, Quote, Book, Bar, Ticker, Gap, Reject, Status)
}
