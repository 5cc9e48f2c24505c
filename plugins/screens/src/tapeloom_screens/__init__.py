"""What screens show of a stream: prices, candles, ladders, tapes, gaps, health; for terminals and pages.

`Market` is fed with batches of events by the stream's thread, and read by the screen's own. Whatever it
keeps is bounded by `Limits`.
"""

from __future__ import annotations

from .health import FeedHealth, Health, QueueHealth, StageHealth
from .limits import Limits
from .market import Market, Order
from .views import Candle, GapEntry, LadderView, Level, SymbolRow

__all__ = [
    "Candle", "FeedHealth", "GapEntry", "Health", "LadderView", "Level", "Limits", "Market", "Order",
    "QueueHealth", "StageHealth", "SymbolRow",
]  # fmt: skip
