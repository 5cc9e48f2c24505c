"""The classes and functions of RustyBT's streaming guide, on top of tapeloom; asyncio only.

The guide's imports work with another package name:
``from tapeloom_rustybt.live.streaming.binance_stream import BinanceWebSocketAdapter``. The work is
done by tapeloom: an `adapter` runs a stack of one feed, the other modules use its stages and queues.
"""

from __future__ import annotations

from .adapter import Venue, WebSocketAdapter
from .aggregation import BarAggregator
from .bar import OHLCVBar, market_data
from .coordination import RobustWebSocketAdapter, StreamManager, batch_subscribe, graceful_stream
from .processing import HeartbeatMonitor, batch_processor, process_batch
from .queue import BarQueue, StreamEnded
from .validation import BarValidator, validate_bar
from .venues import (
    AlpacaBrokerAdapter,
    BinanceWebSocketAdapter,
    BybitWebSocketAdapter,
    CCXTWebSocketAdapter,
    HyperliquidWebSocketAdapter,
    IBBrokerAdapter,
)

__all__ = [
    "AlpacaBrokerAdapter",
    "BarAggregator",
    "BarQueue",
    "BarValidator",
    "BinanceWebSocketAdapter",
    "BybitWebSocketAdapter",
    "CCXTWebSocketAdapter",
    "HeartbeatMonitor",
    "HyperliquidWebSocketAdapter",
    "IBBrokerAdapter",
    "OHLCVBar",
    "RobustWebSocketAdapter",
    "StreamEnded",
    "StreamManager",
    "Venue",
    "WebSocketAdapter",
    "batch_processor",
    "batch_subscribe",
    "graceful_stream",
    "market_data",
    "process_batch",
    "validate_bar",
]
