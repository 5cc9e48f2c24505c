"""The names that the guide imports from ``rustybt.live.streaming.ccxt_stream``."""

from __future__ import annotations

from tapeloom_rustybt.venues import CCXTWebSocketAdapter

__all__ = ["CCXTWebSocketAdapter"]
