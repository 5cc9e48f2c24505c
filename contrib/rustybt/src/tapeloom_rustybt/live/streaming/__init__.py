"""The names that the guide imports from ``rustybt.live.streaming``."""

from __future__ import annotations

from tapeloom_rustybt import (
    BarAggregator,
    BinanceWebSocketAdapter,
    BybitWebSocketAdapter,
    CCXTWebSocketAdapter,
    HyperliquidWebSocketAdapter,
    OHLCVBar,
)

__all__ = [
    "BarAggregator",
    "BinanceWebSocketAdapter",
    "BybitWebSocketAdapter",
    "CCXTWebSocketAdapter",
    "HyperliquidWebSocketAdapter",
    "OHLCVBar",
]
