"""Batches as streams of Arrow IPC, for clients that want columns."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from itertools import groupby
from typing import Any

from anyio import to_thread
from tapeloom import Event, Reject, Trade

from .hub import SharedBatch

try:
    import pyarrow as pa  # type: ignore[import-untyped]
    from tapeloom_columns import ColumnOverflow, record_batches, split_exact
except ImportError:  # the extra "arrow" is not installed
    pa = None

__all__ = ["messages", "prepare", "to_ipc", "to_table"]


async def prepare() -> None:
    """Load the libraries, outside the event loop: pyarrow loads pandas at its first use, if it is there.

    Raises ValueError if they are not installed, with a text for the client.
    """
    if pa is None:
        raise ValueError("the server has no Arrow; there: pip install 'tapeloom-serve[arrow]'")
    await to_thread.run_sync(_load)


@cache
def _load() -> None:
    price = Decimal(1)
    to_ipc([Trade("", "", 0, 0, price, price)])


def to_ipc(events: Sequence[Event]) -> list[bytes]:
    """Return events of one type as Arrow IPC streams, of which each has its own schema.

    A second one has a Reject for each event that does not fit the exact columns of its type.
    """
    try:
        return [_stream(batch) for batch in record_batches(events)]
    except ColumnOverflow:
        exact, refused = split_exact(events)
    rejects = [_reject(refusal.event, str(refusal)) for refusal in refused]
    return [_stream(batch) for batch in record_batches([*exact, *rejects])]


def to_table(events: Sequence[Event]) -> tuple[bytes, int]:
    """Return the events of one type that fit its columns, as one stream, and how many do not fit."""
    exact, refused = split_exact(events)
    return b"".join(map(_stream, record_batches(exact))), len(refused)


def _reject(event: Event, reason: str) -> Reject:
    return Reject(
        event.venue, event.symbol, event.ts, event.recv, "sink_refused", reason, None, event.channel
    )


def _stream(batch: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def messages(batches: Sequence[list[Event]]) -> list[dict[str, Any]]:
    """Return batches as messages: one for each run of events of the same type, in their order."""
    return [message for batch in batches for message in _messages(batch)]


def _messages(batch: list[Event]) -> list[dict[str, Any]]:
    if isinstance(batch, SharedBatch) and batch.messages is not None:
        found: list[dict[str, Any]] = batch.messages
        return found
    made = [
        {"type": "websocket.send", "bytes": data}
        for _, run in groupby(batch, key=type)
        for data in to_ipc(list(run))
    ]
    if isinstance(batch, SharedBatch):
        batch.messages = made
    return made
