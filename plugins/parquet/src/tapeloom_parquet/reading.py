"""Reads a dataset back: as a pyarrow dataset, as events, or by SQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.dataset as pads  # type: ignore[import-untyped]
from tapeloom.errors import TapeloomError
from tapeloom.events.base import BaseEvent
from tapeloom_columns import schema, to_events

from . import journal
from .compatibility import file_schema
from .layout import Layout

if TYPE_CHECKING:
    import duckdb

__all__ = ["connect", "dataset", "events", "waiting"]

E = TypeVar("E", bound=BaseEvent)

_KEYS = pa.schema([("venue", pa.utf8()), ("date", pa.utf8())])


def dataset(path: Path | str, event_type: str) -> Any:
    """Return the files of a type as a `pyarrow.dataset.Dataset`, with `venue` and `date` as columns.

    Fields that were added to the class later are null in older files. Raises TapeloomError if there are
    no files of the type.
    """
    layout = Layout(Path(path))
    folder = layout.root / f"type={event_type}"
    if not any(folder.glob("*/*/*.parquet")):
        known = ", ".join(found.name.removeprefix("type=") for found in layout.types()) or "none"
        raise TapeloomError(
            f"expected files of {event_type!r} in {str(layout.root)!r}; there are files of: {known}"
        )
    columns = file_schema(event_type)
    if columns is not None:
        columns = pa.schema([*columns, *_KEYS], columns.metadata)
    partitioning = pads.partitioning(_KEYS, flavor="hive")
    return pads.dataset(folder, schema=columns, format="parquet", partitioning=partitioning)


def events(path: Path | str, event_class: type[E]) -> Iterator[E]:
    """Yield the events of a class in the order of their numbers within each file.

    Files are read in the order of venue, day, sink and run. Raises TapeloomError if there are none.
    """
    names = schema(event_class).names
    for batch in dataset(path, event_class.type).to_batches(columns=names):
        yield from cast("list[E]", to_events(batch, event_class))


def connect(path: Path | str) -> duckdb.DuckDBPyConnection:
    """Return a DuckDB connection in which each type of event is a view, such as `trade`.

    Needs duckdb: ``pip install duckdb``. Raises TapeloomError without it, or if the
    folder has no files.
    """
    try:
        import duckdb
    except ImportError as error:
        raise TapeloomError("this needs duckdb. Install it: pip install duckdb") from error
    connection = duckdb.connect()
    count = 0
    for folder in Layout(Path(path)).types():
        if not any(folder.glob("*/*/*.parquet")):
            continue
        name = folder.name.removeprefix("type=")
        files = str(folder / "*/*/*.parquet").replace("'", "''")
        source = f"read_parquet('{files}', hive_partitioning = true, union_by_name = true)"
        connection.execute(f"CREATE VIEW {_quoted(name)} AS FROM {source}")
        count += 1
    if not count:
        raise TapeloomError(
            f"expected folders `type=…` with files in {str(path)!r}, found none."
            " Events reach the files within the sink's `max_age`, or when it is closed."
        )
    return connection


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def waiting(path: Path | str) -> int:
    """Return how many events are in journals, where no reader sees them yet."""
    count = 0
    for file in Layout(Path(path)).journals():
        try:
            records, _ = journal.read(file)
        except FileNotFoundError:
            continue  # it was published meanwhile
        count += sum(record.last - record.first + 1 for record in records)
    return count
