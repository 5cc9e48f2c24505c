"""What the guide does with the bars of a queue: batches, and a heartbeat."""

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
    """A queue of bars: a `BarQueue`, or one of asyncio's."""

    async def get(self) -> OHLCVBar:
        """Return the next bar, waiting for it."""
        ...


Process = Callable[[list["OHLCVBar"]], Awaitable[None] | Any]


def process_batch(bars: Sequence[OHLCVBar]) -> Any:
    """Return *bars* as a pandas DataFrame, one row each, with the `vwap` of its symbol in the batch.

    Needs pandas: ``pip install tapeloom-rustybt[pandas]``.
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
    """Call *process_batch* with lists of bars: *batch_size*, or fewer after *timeout* seconds.

    The seconds count from the first bar of a batch. Returns when the queue has come to its end, with
    the last bars processed; what the queue raises otherwise is raised after them too.
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
            answer = process_batch(batch)
            if inspect.isawaitable(answer):
                await answer
        if isinstance(end, StreamEnded):
            return
        if end is not None:
            raise end


class HeartbeatMonitor:
    """Tells a stream that has fallen silent: nothing for *timeout_seconds*.

    Connections are watched by tapeloom itself, which makes a silent one anew. This is about the
    messages that the program gets.
    """

    def __init__(self, timeout_seconds: float = 30) -> None:
        self.timeout_seconds = timeout_seconds
        self.last_message_time: float | None = None

    def on_message(self) -> None:
        """Take note of a message."""
        self.last_message_time = anyio.current_time()

    def is_alive(self) -> bool:
        """Tell whether a message has come within the timeout; false before the first one."""
        if self.last_message_time is None:
            return False
        return anyio.current_time() - self.last_message_time < self.timeout_seconds

    async def get(self, queue: Readable) -> OHLCVBar:
        """Return the next bar of *queue*. Raises TimeoutError where none comes within the timeout."""
        with anyio.fail_after(self.timeout_seconds):
            bar = await queue.get()
        self.on_message()
        return bar
