"""The names that the guide imports from ``rustybt.live.streaming.binance_stream``."""

from __future__ import annotations

from tapeloom_rustybt.venues import BinanceWebSocketAdapter

__all__ = ["BinanceWebSocketAdapter"]
