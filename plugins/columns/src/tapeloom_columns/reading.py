"""From record batches and tables to events."""

from __future__ import annotations

from typing import Any

import attrs
import pyarrow as pa  # type: ignore[import-untyped]
from tapeloom.events.base import BaseEvent

from .errors import SchemaMismatch
from .fields import Field, fields
from .schemas import check, event_class_of

__all__ = ["to_events"]


def to_events(
    data: pa.RecordBatch | pa.Table, event_class: type[BaseEvent] | None = None
) -> list[BaseEvent]:
    """Return the events of a batch or table that `record_batches` made, row by row.

    The class is the one that the schema names, or *event_class*. A field whose column is missing gets
    its default, or None if it may be None; columns that are no field are ignored. Numbers have the
    same value, without trailing zeros; levels of a book are texts. Raises SchemaMismatch if the columns
    are not those of the class, or are of a newer version.
    """
    event_class = event_class or event_class_of(data.schema)
    check(data.schema, event_class)
    batches = data.to_batches() if isinstance(data, pa.Table) else [data]
    return [event for batch in batches for event in _events(batch, event_class)]


def _events(batch: pa.RecordBatch, event_class: type[BaseEvent]) -> list[BaseEvent]:
    columns = {
        field.attribute.alias or field.name: values
        for field in fields(event_class)
        if (values := _values(batch, field, event_class)) is not None
    }
    names = list(columns)
    rows = zip(*columns.values(), strict=True)
    positional = [field.name for field in fields(event_class)][: len(names)]
    if names == positional and not any(field.attribute.kw_only for field in fields(event_class)):
        return [event_class(*row) for row in rows]
    return [event_class(**dict(zip(names, row, strict=True))) for row in rows]


def _values(batch: pa.RecordBatch, field: Field, event_class: type[BaseEvent]) -> list[Any] | None:
    """Return the values of a field, or None if its default is to be used."""
    present = {name: kind for name, kind in field.columns.items() if name in batch.schema.names}
    if field.name in present:
        name, *numbers = [kind.decode(batch.column(name)) for name, kind in present.items()]
        return _ids(name, numbers[0]) if numbers else name
    if field.attribute.default is not attrs.NOTHING:
        return None
    if field.optional:
        return [None] * batch.num_rows
    raise SchemaMismatch(
        f"expected a column {field.name!r} of {event_class.type}, got {batch.schema.names};"
        " the field has no default"
    )


def _ids(texts: list[str | None], numbers: list[int | None]) -> list[int | str | None]:
    return [text if number is None else number for text, number in zip(texts, numbers, strict=True)]
