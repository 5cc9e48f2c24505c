"""The names that the guide imports from ``rustybt.live.streaming.bybit_stream``."""

from __future__ import annotations

from tapeloom_rustybt.venues import BybitWebSocketAdapter

__all__ = ["BybitWebSocketAdapter"]
