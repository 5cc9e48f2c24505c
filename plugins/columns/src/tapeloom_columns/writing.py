"""From events to record batches: one batch for each class, exact or refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
from tapeloom.events.base import BaseEvent

from .errors import ColumnOverflow
from .fields import Field, fields
from .kinds import PRODUCT, REFUSALS, TEXT, Kind
from .schemas import EXTRA, schema

__all__ = ["portable", "record_batches", "split_exact"]


def record_batches(
    events: Sequence[BaseEvent], extra: Mapping[str, int | Sequence[int]] | None = None
) -> list[pa.RecordBatch]:
    """Return the events as one record batch for each class, in the order in which classes first appear.

    Within a batch the events keep their order. *extra* adds columns: `epoch` and `n` of 64 bits, `k` of
    32 bits, each as one number for all rows or as one number for each event; a `range` costs least.
    Raises ColumnOverflow for the first value found that does not fit exactly; no batch is returned then.
    """
    extra = _checked(extra or {}, len(events))
    return [
        _batch(event_class, group, {name: _rows(values, rows) for name, values in extra.items()})
        for event_class, (group, rows) in _groups(events).items()
    ]


def _checked(
    extra: Mapping[str, int | Sequence[int]], count: int
) -> Mapping[str, int | Sequence[int]]:
    for name, values in extra.items():
        if not isinstance(values, int) and len(values) != count:
            raise ValueError(
                f"expected {count} numbers for {name!r}, one an event, got {len(values)}"
            )
    return extra


def _rows(values: int | Sequence[int], rows: list[int] | None) -> int | Sequence[int]:
    return values if isinstance(values, int) or rows is None else [values[row] for row in rows]


def _groups(
    events: Sequence[BaseEvent],
) -> dict[type[BaseEvent], tuple[Sequence[BaseEvent], list[int] | None]]:
    """Return the events by class, with their positions; None stands for all positions."""
    classes = dict.fromkeys(map(type, events))
    if len(classes) < 2:
        return dict.fromkeys(classes, (events, None))
    rows: dict[type[BaseEvent], list[int]] = {event_class: [] for event_class in classes}
    for row, event in enumerate(events):
        rows[type(event)].append(row)
    return {
        event_class: ([events[row] for row in found], found) for event_class, found in rows.items()
    }


def _batch(
    event_class: type[BaseEvent],
    events: Sequence[BaseEvent],
    extra: Mapping[str, int | Sequence[int]],
) -> pa.RecordBatch:
    arrow_schema = schema(event_class, extra)
    arrays = []
    for field in fields(event_class):
        values = field.read(events)
        for kind in field.columns.values():
            try:
                arrays.append(kind.encode(values))
            except REFUSALS:
                for _, refusal in _refusals(field, kind, events, values):
                    raise refusal from None
                raise  # a failure of the whole column, such as too little memory
    arrays += [_extra_array(name, values, len(events)) for name, values in extra.items()]
    return pa.RecordBatch.from_arrays(arrays, schema=arrow_schema)


def _extra_array(name: str, values: int | Sequence[int], count: int) -> pa.Array:
    kind = EXTRA[name]
    try:
        if isinstance(values, int):
            return pa.repeat(pa.scalar(values, kind), count)
        if isinstance(values, range) and kind == pa.int64():
            return pa.arange(values.start, values.stop, values.step)
        return pa.array(values, kind)
    except REFUSALS as error:
        raise ValueError(f"expected numbers of {kind} for {name!r}: {error}") from error


def _refusals(
    field: Field, kind: Kind, events: Iterable[BaseEvent], values: Iterable[Any]
) -> Iterable[tuple[int, ColumnOverflow]]:
    """Yield the position of each value that does not fit, with the error that names it."""
    for row, (event, value) in enumerate(zip(events, values, strict=True)):
        try:
            kind.encode([value])
        except REFUSALS:
            yield row, ColumnOverflow(event, field.name, value, str(kind.type))


def split_exact(events: Sequence[BaseEvent]) -> tuple[list[BaseEvent], list[ColumnOverflow]]:
    """Return the events that fit exactly, in their order, and the refusals of the others.

    Call it for a batch that `record_batches` refused: it converts the batch once more. A refusal has
    the event, and the first of its fields that does not fit.
    """
    refused: dict[int, ColumnOverflow] = {}
    for event_class, (group, rows) in _groups(events).items():
        for field in fields(event_class):
            values = field.read(group)
            for kind in field.columns.values():
                try:
                    kind.encode(values)
                except REFUSALS:
                    for row, refusal in _refusals(field, kind, group, values):
                        refused.setdefault(row if rows is None else rows[row], refusal)
    fitting = [event for row, event in enumerate(events) if row not in refused]
    return fitting, [refused[row] for row in sorted(refused)]


def portable(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch with its decimal256 columns as texts, which every reader of Arrow knows.

    Nothing is lost: `to_events` reads both. DuckDB 2.0 reads decimal256 in a Parquet file as DOUBLE, and
    polars 2.1 cannot read a file that has such a column.
    """
    for number, field in enumerate(batch.schema):
        if field.type == PRODUCT:
            texts = batch.column(number).cast(TEXT)
            batch = batch.set_column(number, field.with_type(TEXT), texts)
    return batch
