"""Live market data as one normalised, continuous, checked stream.

How it is built, from where data enters: `_transport` reads a socket in batches; a venue's `parse` turns
frames into `events`; the stages of the stack check them and add bars and books; bounded `_queues` hand
them to the consumers. `_session` keeps one connection alive, `_history` asks over REST, `_engine` holds
the tasks together. `_compose` has asked the plugins (`hooks`) for all of this before the first byte
arrives. Nothing between a read and a queue waits, logs or calls a hook.
"""

from __future__ import annotations

from ._config import (
    FeedSpec,
    FlightSpec,
    Network,
    Process,
    QueueSpec,
    Secret,
    SinkSpec,
    Stack,
    StageSpec,
)
from ._consume import Batches, Consumer
from ._open import open_replay as replay
from ._open import open_stream as open  # noqa: A004
from ._plugins import Registry
from ._stream import Stream
from .events import Bar, Book, Event, Gap, Quote, Reject, Status, Ticker, Trade
from .symbols import Symbol
from .wire import decode, encode

__all__ = [
    "Bar",
    "Batches",
    "Book",
    "Consumer",
    "Event",
    "FeedSpec",
    "FlightSpec",
    "Gap",
    "Network",
    "Process",
    "QueueSpec",
    "Quote",
    "Registry",
    "Reject",
    "Secret",
    "SinkSpec",
    "Stack",
    "StageSpec",
    "Status",
    "Stream",
    "Symbol",
    "Ticker",
    "Trade",
    "decode",
    "encode",
    "open",
    "replay",
]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("tapeloom")
    raise AttributeError(f"module 'tapeloom' has no attribute {name!r}")
