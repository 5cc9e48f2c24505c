"""The names that the guide imports from ``rustybt.live.streaming.hyperliquid_stream``."""

from __future__ import annotations

from tapeloom_rustybt.venues import HyperliquidWebSocketAdapter

__all__ = ["HyperliquidWebSocketAdapter"]
