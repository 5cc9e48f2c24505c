"""`FilesSink`: appends batches to files, and begins new ones by size and time."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tapeloom.errors import BatchRefused, SinkError, SinkRefused
from tapeloom.plugin import Guarantee, Resume, SinkBatch, SinkRun

from . import disk
from .lines import COMPRESSORS, ENCODERS, ENDINGS, header
from .settings import Settings
from .state import State

__all__ = ["FilesSink"]

#: The folder of the states.
_INTERNAL = "_tapeloom"
#: The ending of a file that is not complete.
_OPEN = ".part"


class FilesSink:
    """Stores each event once: a batch is stored when the state has the sizes of the files with it.

    A file is complete, and gets its final name, when it has reached its size or its age, and when the sink
    is closed.
    """

    guarantee: Guarantee = "exactly_once"

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        """Create a sink; *clock* returns seconds."""
        self._settings = settings
        self._clock = clock
        self._root = Path(settings.path)
        self._run = SinkRun("", 0)
        self._state: State | None = None
        self._sizes: dict[str, int] = {}  # of the open files
        self._since = 0.0  # when the open files were begun
        self._succeeded = True  # whether the last write did

    def open(self, run: SinkRun) -> Resume:
        """Create what is missing, cut off what a crash has left of a batch, and say what there is."""
        self._run = run
        with disk.explained(self._root):
            folder = self._root / _INTERNAL
            disk.make_folders(folder)
            state = State(folder / f"{run.sink}.sqlite")
            try:
                if state.is_new() and (lost := self._complete_file()):
                    raise SinkRefused(
                        f"{str(self._root)!r} has files of the sink {run.sink!r}, such as {lost!r}, but not"
                        f" its state in {str(folder)!r}. Restore it, or set another `name` for the sink."
                    )
                self._recover(state)
                resume = state.resume(run.epoch)
            except BaseException:
                state.close()
                raise
            self._state = state
            return resume

    def _complete_file(self) -> str:
        names = (path.name for path in self._root.iterdir() if path.suffix != _OPEN)
        return next(filter(self._is_mine, names), "")

    def _is_mine(self, name: str) -> bool:
        pattern = rf"(\w+\.)?{re.escape(self._run.sink)}-\d{{20}}-\d{{12,}}\.(jsonl|csv)(\.\w+)*"
        return re.fullmatch(pattern, name) is not None

    def _recover(self, state: State) -> None:
        """Cut open files to what is stored, and remove those of which nothing is."""
        self._sizes = state.files()
        rotated = False
        for name, size in self._sizes.items():
            path = self._root / f"{name}{_OPEN}"
            if path.exists():
                os.truncate(path, size)
            else:
                rotated = True  # a crash came between the renames and the state
        for path in self._root.glob(f"*{_OPEN}"):
            if self._is_mine(path.name) and path.name.removesuffix(_OPEN) not in self._sizes:
                path.unlink()
        self._since = self._clock()
        if rotated or any(f"-{self._run.epoch:020d}-" not in name for name in self._sizes):
            self._rotate(state)

    def write(self, batch: SinkBatch) -> None:
        """Append a batch; return when it is durable."""
        assert self._state is not None
        self._succeeded = False
        contents = self._encode(batch)
        with disk.explained(self._root):
            if not self._sizes:
                self._since = self._clock()
            sizes = {}
            for kind, content in contents.items():
                name = self._name(kind, batch)
                if name not in self._sizes:
                    content = header(self._settings.format, kind, batch.events) + content
                packed = COMPRESSORS[self._settings.compression](content)
                disk.append(self._root / f"{name}{_OPEN}", packed)
                sizes[name] = self._sizes.get(name, 0) + len(packed)
            self._state.commit(batch, sizes)
            self._sizes |= sizes
            is_old = self._clock() - self._since >= self._settings.rotate_every / 1e9
            if is_old or max(self._sizes.values()) >= self._settings.rotate_size:
                self._rotate(self._state)
        self._succeeded = True

    def _encode(self, batch: SinkBatch) -> Mapping[str, bytes]:
        try:
            return ENCODERS[self._settings.format](batch)
        except UnicodeEncodeError as error:
            raise BatchRefused(
                f"a text has a character that UTF-8 cannot represent: {error.object[error.start]!a}."
                " Leave such events out, or use a store for any text."
            ) from error

    def _name(self, kind: str, batch: SinkBatch) -> str:
        """Return the name of the open file for a type, or of a new one that begins with the batch."""
        prefix = f"{kind}." if kind else ""
        begin = f"{prefix}{self._run.sink}-{batch.epoch:020d}-"
        known = next((name for name in self._sizes if name.startswith(begin)), "")
        ending = f".{self._settings.format}{ENDINGS[self._settings.compression]}"
        return known or f"{begin}{batch.first:012d}{ending}"

    def _rotate(self, state: State) -> None:
        """Give the open files their final names."""
        for name in self._sizes:
            path = self._root / f"{name}{_OPEN}"
            if path.exists():
                os.replace(path, self._root / name)  # noqa: PTH105
        disk.sync(self._root)
        state.forget_files()
        self._sizes = {}

    def close(self) -> None:
        """Complete the files; after a write that failed they are left for the next `open`."""
        if self._state is None:
            return
        try:
            if self._succeeded and self._sizes:
                with disk.explained(self._root):
                    self._rotate(self._state)
        except SinkError:
            pass  # what was acknowledged is stored; the next `open` says what is wrong
        finally:
            self._state.close()
            self._state = None
            self._sizes = {}
            self._succeeded = True

    def check(self) -> Sequence[str]:
        """Return lines about the folder. Changes nothing. Raises SinkRefused or SinkUnavailable."""
        root = self._root
        with disk.explained(root):
            existing = next(path for path in (root, *root.absolute().parents) if path.exists())
            if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
                raise SinkRefused(
                    f"cannot write in {str(existing)!r}. Give this user the right to write there, or set"
                    " `path` to a folder where it may."
                )
            free = shutil.disk_usage(existing).free
        if existing != root:
            return [f"{str(root)!r} will be created; {free / 1e9:.1f} GB are free"]
        files = [path for path in root.iterdir() if path.is_file()]
        waiting = sum(path.suffix == _OPEN for path in files)
        counts = f"{len(files) - waiting} complete files, {waiting} open ones"
        return [
            f"{str(root)!r}: {counts}; {free / 1e9:.1f} GB are free; SQLite {sqlite3.sqlite_version}"
        ]
