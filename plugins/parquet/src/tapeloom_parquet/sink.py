"""`ParquetSink`: batches into a journal, journals into Parquet files."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
from tapeloom.errors import BatchRefused, SinkError, SinkRefused
from tapeloom.plugin import Guarantee, Resume, SinkBatch, SinkRun
from tapeloom_columns import ColumnOverflow, SchemaMismatch, portable, record_batches

from . import disk, journal, state
from .compaction import recover
from .compatibility import check_columns, check_partition_keys
from .journal import Journal, Record
from .layout import Layout, stem
from .publishing import TEMPORARY, publish
from .settings import Settings

__all__ = ["ParquetSink"]


class ParquetSink:
    """Stores each event once: in a journal when `write` returns, later in a Parquet file.

    A journal becomes files when it has reached its size or its age, and when the sink is closed.
    """

    guarantee: Guarantee = "exactly_once"

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        """Create a sink; *clock* returns seconds."""
        # pyarrow imports pandas, if it is installed, with its first array. That takes a second, on a busy
        # machine ten, and is no time that the store takes to open.
        pa.array([0])
        self._settings = settings
        self._clock = clock
        self._layout = Layout(Path(settings.path))
        self._run = SinkRun("", 0)
        self._journal: Journal | None = None
        self._since = 0.0  # when the journal was begun
        #: What is in the journal; None if this process has not written all of it.
        self._records: list[Record] | None = None
        self._saved = state.State()
        self._succeeded = True  # whether the last write did
        self._locks = ExitStack()

    @property
    def _folder(self) -> Path:
        return self._layout.sink(self._run.sink)

    def open(self, run: SinkRun) -> Resume:
        """Create the folders, publish what earlier runs have left in journals, and say what there is."""
        self._run = run
        with disk.explained(self._layout.root):
            self._layout.check()
            check_columns(self._layout)
            disk.make_folders(self._folder)
            self._lock()
            recover(self._layout)
            saved = state.load(self._folder)
            if saved is None and self._layout.has_files_of(run.sink):
                raise SinkRefused(
                    f"{str(self._layout.root)!r} has files of the sink {run.sink!r}, but not its state in"
                    f" {str(self._folder)!r}. Restore that folder, or set another `name` for the sink."
                )
            if saved is None:
                saved = state.State()
                saved.save(
                    self._folder
                )  # before the first file, so that files without it tell a loss
            self._saved = saved
            return self._recover()

    def _lock(self) -> None:
        path = self._folder / "lock"
        try:
            self._locks.enter_context(disk.lock(path, exclusive=True, wait=False))
        except BlockingIOError as error:
            raise SinkRefused(
                f"{str(self._layout.root)!r} is used by the sink {self._run.sink!r} of another process."
                " Stop it, or set another `name` for this sink."
            ) from error

    def _recover(self) -> Resume:
        """Publish the journals of other runs, and go on with that of this run."""
        for temporary in self._folder.glob(f"*{TEMPORARY}"):
            temporary.unlink()
        stored = self._saved.copy()
        for path in sorted(self._folder.glob(f"*{journal.SUFFIX}")):
            records, size = journal.read(path)
            stored.add(records)
            unsaved = [
                record for record in records if record.last > self._saved.last.get(record.epoch, 0)
            ]
            if unsaved and unsaved[0].epoch == self._run.epoch and self._journal is None:
                self._journal = Journal(path, size)
                self._records = None
                self._since = self._clock()
            else:
                publish(self._layout, path, self._saved, self._settings.row_group)
        return Resume(stored.last.get(self._run.epoch, 0), stored.positions)

    def write(self, batch: SinkBatch) -> None:
        """Add a batch to the journal; return when it is durable."""
        self._succeeded = False
        record = _record(batch)
        content = journal.encode(record)
        with disk.explained(self._layout.root):
            if self._journal is None:
                name = stem(self._run.sink, batch.epoch, batch.first)
                self._journal = Journal(self._folder / f"{name}{journal.SUFFIX}")
                self._records = []
                self._since = self._clock()
            self._journal.append(content)
            if self._records is not None:
                self._records.append(record)
            if self._journal.size >= self._settings.max_size or self._is_old:
                self._publish()
        self._succeeded = True

    @property
    def _is_old(self) -> bool:
        return self._clock() - self._since >= self._settings.max_age / 1e9

    def idle(self) -> None:
        """Publish the journal if it has reached its age."""
        if self._journal is not None and self._is_old:
            self._succeeded = False
            with disk.explained(self._layout.root):
                self._publish()
            self._succeeded = True

    def _publish(self) -> None:
        if self._journal is None:
            return
        path, records = self._journal.path, self._records
        self._journal.close()
        self._journal = self._records = None
        publish(self._layout, path, self._saved, self._settings.row_group, records)

    def close(self) -> None:
        """Publish the journal; after a write that failed it is left for the next `open`."""
        try:
            if self._succeeded:
                with disk.explained(self._layout.root):
                    self._publish()
        except SinkError:
            pass  # the journal is durable: the next `open` publishes it, or says why it cannot
        finally:
            if self._journal is not None:
                self._journal.close()
                self._journal = None
            self._succeeded = True
            self._locks.close()

    def check(self) -> Sequence[str]:
        """Return lines about the folder. Changes nothing. Raises SinkRefused or SinkUnavailable."""
        root = self._layout.root
        with disk.explained(root):
            self._layout.check()
            lines = check_columns(self._layout)
            existing = next(path for path in (root, *root.absolute().parents) if path.exists())
            if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
                raise SinkRefused(
                    f"cannot write in {str(existing)!r}. Give this user the right to write there, or set"
                    " `path` to a folder where it may."
                )
            free = shutil.disk_usage(existing).free
        if existing != root:
            return [f"{str(root)!r} will be created; {free / 1e9:.1f} GB are free"]
        partitions = sum(1 for _ in self._layout.partitions())
        waiting = len(self._layout.journals())
        return [
            f"{str(root)!r}: {partitions} partitions, {waiting} journals; {free / 1e9:.1f} GB are free",
            *lines,
        ]


def _record(batch: SinkBatch) -> Record:
    """Return a batch as columns. Raises BatchRefused if a value does not fit exactly."""
    try:
        numbers = range(batch.first, batch.last + 1)
        extra: dict[str, int | Sequence[int]] = {"epoch": batch.epoch, "n": numbers}
        batches = [portable(columns) for columns in record_batches(batch.events, extra=extra)]
        check_partition_keys(batches)
    except (ColumnOverflow, SchemaMismatch) as error:
        raise BatchRefused(f"{error}.") from error
    return Record(batch.epoch, batch.first, batch.last, batch.positions, batches)
