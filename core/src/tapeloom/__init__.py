"""Live market data as one normalised, continuous, checked stream.

The data flow: `_network` reads a socket in batches; a venue's `parse` turns frames into `events`; the stages
of the stack check them and add bars and books; bounded queues in `_stream` deliver them to the consumers.
`_connection` keeps connections open, `_gaps` tracks what is missing, `_history` requests it over REST, and
`_tape` records and replays frames. `_compose` calls the plugins' `hooks` before the first byte arrives.
Nothing between a read and a queue waits, logs or calls a hook.
"""

from __future__ import annotations

from tapeloom._compose.registry import Registry
from tapeloom._stream.consumers import Batches, Consumer
from tapeloom._stream.opening import connect
from tapeloom._stream.opening import open_replay as replay
from tapeloom._stream.opening import open_stream as open  # noqa: A004
from tapeloom._stream.queues import Queue
from tapeloom._stream.stream import Stream

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
from .events import Bar, Book, Event, Gap, Quote, Reject, Status, Ticker, Trade, decode, encode
from .symbols import Symbol

__all__ = [
    "Bar", "Batches", "Book", "Consumer", "Event", "FeedSpec", "FlightSpec", "Gap", "Network",
    "Process", "Queue", "QueueSpec", "Quote", "Registry", "Reject", "Secret", "SinkSpec", "Stack",
    "StageSpec", "Status", "Stream", "Symbol", "Ticker", "Trade", "connect", "decode", "encode", "open",
    "replay",
]  # fmt: skip


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("tapeloom")
    raise AttributeError(f"module 'tapeloom' has no attribute {name!r}")
