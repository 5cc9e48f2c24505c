"""From a journal to Parquet files: one for each type, venue and day in it.

The steps are: the files are written beside the journal and synchronised; they are moved into their
partitions; the state is saved; the journal is removed. After a crash the journal is published again: the
names of the files and their rows are the same, so each replaces itself. Once the state is saved, the
journal is only removed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from . import disk
from .compatibility import event_type
from .journal import Record, read
from .layout import Layout, partition
from .state import State

__all__ = ["ROW_GROUP", "TEMPORARY", "publish", "writer"]

#: Maximum number of rows of a row group, unless the settings of the sink say otherwise.
ROW_GROUP = 122_880
TEMPORARY = ".tmp"


def publish(
    layout: Layout,
    path: Path,
    saved: State,
    row_group: int,
    records: Sequence[Record] | None = None,
) -> None:
    """Make Parquet files of a journal, update the state, and remove the journal.

    *saved* is the state of the sink as it was saved last, *records* what is in the journal; without them
    it is read.
    """
    if records is None:
        records, _ = read(path)
    if any(record.last > saved.last.get(record.epoch, 0) for record in records):
        files = []
        for number, (folder, table) in enumerate(_tables(records)):
            temporary = path.with_name(f"{path.stem}-{number}{TEMPORARY}")
            _write(temporary, table, row_group)
            files.append((temporary, layout.root / folder / f"{path.stem}.parquet"))
        with disk.lock(layout.lock, exclusive=False, wait=True):
            for temporary, target in files:
                disk.make_folders(target.parent)
                disk.move(temporary, target)
        saved.add(records)
        saved.save(path.parent)
    os.unlink(path)  # noqa: PTH108
    disk.sync(path.parent)


def _tables(records: Sequence[Record]) -> Iterator[tuple[str, pa.Table]]:
    """Yield the folder and the rows of each type, venue and day."""
    batches = [batch for record in records for batch in record.batches]
    for name, group in groupby(sorted(batches, key=event_type), key=event_type):
        table = pa.Table.from_batches(list(group)).unify_dictionaries()
        for venue, date, rows in _by_venue_and_day(table):
            yield partition(name, venue, date), rows.drop_columns(["venue"])


def _by_venue_and_day(table: pa.Table) -> Iterator[tuple[str, str, pa.Table]]:
    venues = table["venue"].cast(pa.utf8())
    # Without the time zone, which is UTC, no database of time zones is needed.
    days = pc.floor_temporal(table["ts"].cast(pa.timestamp("ns")), unit="day").cast(pa.date32())
    keys = pa.table({"venue": venues, "day": days})
    pairs = keys.group_by(["venue", "day"], use_threads=False).aggregate([]).to_pylist()
    for pair in pairs:
        venue, day = pair["venue"], pair["day"]
        if len(pairs) == 1:
            yield venue, str(day), table
        else:
            mask = pc.and_(pc.equal(venues, venue), pc.equal(days, pa.scalar(day, pa.date32())))
            yield venue, str(day), table.filter(mask)


def writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Return a writer of a Parquet file with the encodings that suit the columns.

    Times and numbers grow by small steps, and ids begin alike, so their differences are stored. Words and
    prices have few different values. A dictionary of ids would be built in vain. The smallest and the
    largest text of ids and of the levels of books help no reader; numbers of ids have theirs in `seq`.
    """
    steps = dict.fromkeys(_names(schema, _grows), "DELTA_BINARY_PACKED")
    texts = dict.fromkeys(_names(schema, pa.types.is_string), "DELTA_BYTE_ARRAY")
    return pq.ParquetWriter(
        path, schema, compression="zstd", use_dictionary=_names(schema, _repeats),
        column_encoding=steps | texts, write_statistics=_names(schema, _is_ordered),
    )  # fmt: skip


def _names(schema: pa.Schema, accepts: Callable[[pa.DataType], bool]) -> list[str]:
    return [field.name for field in schema if accepts(field.type)]


def _repeats(kind: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(kind) or pa.types.is_decimal(kind))


def _grows(kind: pa.DataType) -> bool:
    return bool(pa.types.is_int64(kind) or pa.types.is_timestamp(kind))


def _is_ordered(kind: pa.DataType) -> bool:
    return not (pa.types.is_string(kind) or pa.types.is_nested(kind))


def _write(path: Path, table: pa.Table, row_group: int) -> None:
    with writer(path, table.schema) as file:
        file.write_table(table, row_group_size=row_group)
    disk.sync(path)
