"""Joins the small files of a partition, so that no reader sees a row twice, or a part of the rows.

The new folder of a partition is prepared beside it: joined files, and links to those that stay. Then two
renames exchange the folders: a reader that lists files between them, some microseconds, does not see the
partition. A query that has listed the old files and not yet opened them fails with "no such file".

A crash leaves a folder in ``_tapeloom/compact``. If it was between the renames, `recover` completes the
exchange; otherwise it removes what was prepared, or what is no longer needed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from attrs import frozen
from tapeloom.errors import SinkUnavailable

from . import disk
from .layout import Layout
from .publishing import ROW_GROUP, writer

__all__ = ["TARGET", "Compacted", "compact", "recover"]

#: The size that joined files have about, and that files are not joined from, in bytes.
TARGET = 256_000_000
_NEW, _OLD, _PARTITION = "new", "old", "partition"
_VERSION = b"tapeloom.version"


@frozen
class Compacted:
    """What a compaction has done to a partition."""

    partition: str  #: The folder, relative to the dataset.
    files_before: int  #: Number of files.
    files_after: int  #: Number of files.


def compact(
    path: Path | str,
    *,
    target: int = TARGET,
    on_progress: Callable[[int, int, str], None] = lambda done, count, partition: None,
) -> list[Compacted]:
    """Join files smaller than *target* bytes in each partition; return what was changed.

    Sinks may write meanwhile. *on_progress* is called before each partition, and at the end, with the
    number of partitions done, their number, and the partition. Raises SinkUnavailable if another
    compaction runs, and SinkRefused if the folder cannot be written.
    """
    layout = Layout(Path(path))
    with disk.explained(layout.root):
        if not layout.internal.is_dir():
            raise SinkUnavailable(
                f"{str(layout.root)!r} is not a dataset of tapeloom. Name the folder that has the folders"
                " `type=…`."
            )
        layout.check()
        disk.make_folders(layout.compactions)
        with _alone(layout):
            _recover(layout)
            changed = []
            partitions = list(layout.partitions())
            for done, folder in enumerate(partitions):
                name = folder.relative_to(layout.root).as_posix()
                on_progress(done, len(partitions), name)
                if (result := _compact(layout, folder, name, target)) is not None:
                    changed.append(result)
            on_progress(len(partitions), len(partitions), "")
    return changed


def recover(layout: Layout) -> None:
    """Complete or undo what a crash has left of a compaction; nothing if one runs now."""
    if not layout.compactions.is_dir():
        return
    try:
        with disk.lock(layout.compactions / "lock", exclusive=True, wait=False):
            _recover(layout)
    except BlockingIOError:
        return


@contextmanager
def _alone(layout: Layout) -> Iterator[None]:
    with ExitStack() as locks:
        path = layout.compactions / "lock"
        try:
            locks.enter_context(disk.lock(path, exclusive=True, wait=False))
        except BlockingIOError as error:
            raise SinkUnavailable(
                f"{str(layout.root)!r} is being compacted by another process. Wait until it has ended."
            ) from error
        yield


def _recover(layout: Layout) -> None:
    for folder in sorted(path for path in layout.compactions.iterdir() if path.is_dir()):
        note, new, old = folder / _PARTITION, folder / _NEW, folder / _OLD
        if note.is_file() and old.is_dir() and new.is_dir():
            partition = layout.root / note.read_text("utf-8")
            with disk.lock(layout.lock, exclusive=True, wait=True):
                # A sink may have made the partition anew since.
                disk.make_folders(partition)
                for file in sorted(new.iterdir()):
                    disk.move(file, partition / file.name)
        shutil.rmtree(folder)


def _compact(layout: Layout, folder: Path, name: str, target: int) -> Compacted | None:
    """Join the small files of a partition; return None if there are none to join."""
    files = sorted(folder.glob("*.parquet"))
    # Listed after the files: what a journal may still replace is left alone.
    published_again = {path.stem for path in layout.journals()}
    groups = _groups([file for file in files if file.stem not in published_again], target)
    if not groups:
        return None
    prepared = layout.compactions / hashlib.sha256(name.encode()).hexdigest()[:16]
    disk.make_folders(prepared / _NEW)
    joined = {file for group in groups for file in group}
    for group in groups:
        _join(group, prepared / _NEW / f"{_joined_name(group)}.parquet")
    with disk.lock(layout.lock, exclusive=True, wait=True):
        for file in sorted(folder.iterdir()):
            if file not in joined:
                os.link(file, prepared / _NEW / file.name)
        count = len(list((prepared / _NEW).iterdir()))
        disk.sync(prepared / _NEW)
        disk.write(prepared / _PARTITION, name.encode())
        os.rename(folder, prepared / _OLD)  # noqa: PTH104
        os.rename(prepared / _NEW, folder)  # noqa: PTH104
        disk.sync(folder.parent)
        disk.sync(prepared)
    shutil.rmtree(prepared)
    return Compacted(name, len(files), count)


def _groups(files: Sequence[Path], target: int) -> list[list[Path]]:
    """Return the files to join with each other: of one version of the columns, small, at least two."""
    groups: list[list[Path]] = []
    size, version = target, b""
    for file in files:
        file_size = file.stat().st_size
        if file_size >= target:
            continue
        file_version = (pq.read_schema(file).metadata or {}).get(_VERSION, b"")
        if not groups or size + file_size > target or file_version != version:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size, version = size + file_size, file_version
    return [group for group in groups if len(group) > 1]


def _joined_name(files: Sequence[Path]) -> str:
    """Return a name that begins like the first file and is that of no other join."""
    names = "/".join(file.name for file in files)
    first = re.sub(r"^joined-(.*)-[0-9a-f]{12}$", r"\1", files[0].stem)
    return f"joined-{first}-{hashlib.sha256(names.encode()).hexdigest()[:12]}"


def _join(files: Sequence[Path], target: Path) -> None:
    """Write the rows of *files* to one file, in order; columns that a file lacks are null."""
    readers = [pq.ParquetFile(file) for file in files]
    schema = pa.unify_schemas(
        [reader.schema_arrow for reader in readers], promote_options="permissive"
    )
    rows: list[pa.Table] = []
    with writer(target, schema) as output:
        for reader in readers:
            for number in range(reader.num_row_groups):
                rows.append(_conform(reader.read_row_group(number), schema))
                if sum(table.num_rows for table in rows) >= ROW_GROUP:
                    _write(output, rows)
                    rows = []
            reader.close()
        if rows:
            _write(output, rows)
    disk.sync(target)


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table[field.name].cast(field.type)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _write(output: pq.ParquetWriter, rows: Sequence[pa.Table]) -> None:
    table = pa.concat_tables(rows).unify_dictionaries()
    output.write_table(table, row_group_size=ROW_GROUP)
