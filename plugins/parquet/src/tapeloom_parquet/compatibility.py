"""Whether events of today fit to the files that a dataset has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from tapeloom.errors import BatchRefused, SinkRefused
from tapeloom.events import BY_TYPE
from tapeloom_columns import SchemaMismatch, schema, unify

from .layout import Layout

__all__ = ["check_columns", "check_partition_keys", "event_type", "file_schema"]

#: The keys of the folders that are no fields of events.
_KEYS = {"type", "date"}


def check_partition_keys(batches: Sequence[pa.RecordBatch]) -> None:
    """Raise BatchRefused if a type has a field that is named like a key of the folders."""
    for batch in batches:
        if clash := _KEYS & {*batch.schema.names}:
            raise BatchRefused(
                f"the type {event_type(batch)!r} has the field {min(clash)!r}, which is a key of the"
                " folders. Rename the field, or exclude the type with `types`."
            )


def event_type(batch: pa.RecordBatch) -> str:
    """Return the type of the events in a batch of `record_batches`."""
    return str(batch.schema.metadata[b"tapeloom.type"].decode())


def file_schema(event_type: str) -> pa.Schema | None:
    """Return the columns of the files of a type; None if its class is not known here."""
    if event_type not in BY_TYPE:
        return None
    columns = schema(BY_TYPE[event_type], ("epoch", "n"))
    fields = [
        field.with_type(pa.utf8()) if pa.types.is_decimal256(field.type) else field
        for field in columns
        if field.name != "venue"
    ]
    return pa.schema(fields, columns.metadata)


def check_columns(layout: Layout) -> list[str]:
    """Return how the columns of files differ from those of today's classes, as lines for people.

    One file of each type is read. Raises SinkRefused if old and new files cannot be read together.
    """
    lines = []
    for folder in layout.types():
        event_type = folder.name.removeprefix("type=")
        current = file_schema(event_type)
        file = next(folder.glob("*/*/*.parquet"), None)
        if current is None or file is None:
            continue
        stored = _schema_of(file)
        try:
            unify(stored, BY_TYPE[event_type])
        except SchemaMismatch as error:
            raise SinkRefused(
                f"new files of {event_type} cannot be read together with {str(file)!r}: {error}."
                " Set `path` to an empty folder."
            ) from error
        if added := [name for name in current.names if name not in stored.names]:
            lines.append(f"{event_type}: older files lack {', '.join(added)}, which reads as null")
        if lost := [name for name in stored.names if name not in current.names]:
            lines.append(f"{event_type}: only older files have {', '.join(lost)}")
    return lines


def _schema_of(file: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except pa.ArrowInvalid as error:
        raise SinkRefused(f"{str(file)!r} is not a Parquet file: {error}. Move it away.") from error
