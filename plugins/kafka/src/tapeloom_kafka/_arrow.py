"""Turns events into messages of Arrow: all events of one type and symbol of a batch are one message.

Needs the package tapeloom-columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa  # type: ignore[import-untyped]
from tapeloom.errors import BatchRefused
from tapeloom.events import Event
from tapeloom.plugin import SinkBatch
from tapeloom_columns import ColumnOverflow, SchemaMismatch, record_batches

from ._messages import Message

__all__ = ["arrow_messages"]


def arrow_messages(batch: SinkBatch, topics: Sequence[str], max_bytes: int) -> list[Message]:
    """Return the events as Arrow IPC streams, with the columns `epoch` and `n`.

    A message of more than *max_bytes* is halved. Raises BatchRefused for a value that no column holds.
    """
    rows: dict[tuple[str, str, type[Event]], list[int]] = {}
    for row, (topic, event) in enumerate(zip(topics, batch.events, strict=True)):
        rows.setdefault((topic, event.symbol, type(event)), []).append(row)
    try:
        return [
            (topic, value, symbol, [("epoch", str(batch.epoch)), ("format", "arrow")])
            for (topic, symbol, _), found in rows.items()
            for value in _values(batch, found, max_bytes)
        ]
    except (ColumnOverflow, SchemaMismatch) as error:
        raise BatchRefused(f"{error}. With format = 'json' it can be written.") from error


def _values(batch: SinkBatch, rows: list[int], max_bytes: int) -> list[bytes]:
    numbers = [batch.first + row for row in rows]
    events = [batch.events[row] for row in rows]
    (columns,) = record_batches(events, {"epoch": batch.epoch, "n": numbers})
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, columns.schema) as writer:
        writer.write_batch(columns)
    value: bytes = stream.getvalue().to_pybytes()
    if len(value) <= max_bytes or len(rows) == 1:
        return [value]
    half = len(rows) // 2
    return [*_values(batch, rows[:half], max_bytes), *_values(batch, rows[half:], max_bytes)]
