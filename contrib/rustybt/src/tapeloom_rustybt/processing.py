"""The guide's processing of the bars of a queue: in batches, and with a heartbeat monitor."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from .queue import StreamEnded

if TYPE_CHECKING:
    from .bar import OHLCVBar

__all__ = ["HeartbeatMonitor", "Readable", "batch_processor", "process_batch"]


class Readable(Protocol):
    """A queue of bars: a `BarQueue`, or an `asyncio.Queue`."""

    async def get(self) -> OHLCVBar:
        """Return the next bar, waiting for it."""
        ...


Process = Callable[[list["OHLCVBar"]], Awaitable[None] | Any]


def process_batch(bars: Sequence[OHLCVBar]) -> Any:
    """Return *bars* as a pandas DataFrame, one row each, with the `vwap` of its symbol in the batch.

    Needs pandas: ``pip install pandas``.
    """
    pandas: Any = import_module("pandas")
    names = ("symbol", "timestamp", "open", "high", "low", "close", "volume")
    frame = pandas.DataFrame([{name: getattr(bar, name) for name in names} for bar in bars])
    numbers = frame.columns[2:]
    frame[numbers] = frame[numbers].astype(float)
    frame["value"] = frame["close"] * frame["volume"]
    sums = frame.groupby("symbol")[["value", "volume"]].transform("sum")
    frame["vwap"] = sums["value"] / sums["volume"]
    return frame.drop(columns="value")


async def batch_processor(
    queue: Readable,
    batch_size: int = 10,
    timeout: float = 1.0,
    process_batch: Process = process_batch,
) -> None:
    """Call *process_batch* with lists of *batch_size* bars, or of fewer after *timeout* seconds.

    The timeout starts with the first bar of a batch. Returns when the queue raises StreamEnded; any
    other error of the queue is raised. In both cases the last bars are processed first.
    """
    while True:
        batch: list[OHLCVBar] = []
        end: Exception | None = None
        try:
            batch.append(await queue.get())
            with anyio.move_on_after(timeout):
                while len(batch) < batch_size:
                    batch.append(await queue.get())
        except Exception as error:
            end = error
        if batch:
            result = process_batch(batch)
            if inspect.isawaitable(result):
                await result
        if isinstance(end, StreamEnded):
            return
        if end is not None:
            raise end


class HeartbeatMonitor:
    """Detects a stream without messages for *timeout_seconds*.

    tapeloom itself detects and replaces stalled connections. This monitor is about the messages that
    the program receives.
    """

    def __init__(self, timeout_seconds: float = 30) -> None:
        self.timeout_seconds = timeout_seconds
        self.last_message_time: float | None = None

    def on_message(self) -> None:
        """Record that a message came."""
        self.last_message_time = anyio.current_time()

    def is_alive(self) -> bool:
        """Return whether a message came within the timeout; false before the first message."""
        if self.last_message_time is None:
            return False
        return anyio.current_time() - self.last_message_time < self.timeout_seconds

    async def get(self, queue: Readable) -> OHLCVBar:
        """Return the next bar of *queue*. Raises TimeoutError if none comes within the timeout."""
        with anyio.fail_after(self.timeout_seconds):
            bar = await queue.get()
        self.on_message()
        return bar
