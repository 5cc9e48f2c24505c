"""The state of a sink, in a small SQLite database: the last numbers, the positions, the open files.

The offset of an open file is the end of what is stored in it: what lies behind was cut by a crash.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path

from tapeloom.errors import SinkRefused
from tapeloom.plugin import Resume, SinkBatch

__all__ = ["State"]

#: The version of the tables, in `PRAGMA user_version`.
_VERSION = 1
_TABLES = (
    "CREATE TABLE IF NOT EXISTS run (epoch INTEGER PRIMARY KEY, last INTEGER)",
    "CREATE TABLE IF NOT EXISTS position (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS file (name TEXT PRIMARY KEY, size INTEGER) WITHOUT ROWID",
)


class State:
    """The open database. Methods raise sqlite3.Error if the disk does not take a change."""

    def __init__(self, path: Path) -> None:
        """Open or create it. Raises SinkRefused if it is in use, or none of this version."""
        self._database = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=0
        )
        try:
            self._database.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.execute("BEGIN EXCLUSIVE")
            self._create(path)
            self._database.execute("COMMIT")
        except BaseException as error:
            self._database.close()
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                raise SinkRefused(
                    f"{str(path)!r} is used by another process. Stop it, or set another `name` for this"
                    " sink."
                ) from error
            if isinstance(error, sqlite3.DatabaseError) and "not a database" in str(error):
                raise SinkRefused(
                    f"{str(path)!r} is not a state of this sink. Restore it from a backup, or set another"
                    " `name` for the sink."
                ) from error
            raise

    def _create(self, path: Path) -> None:
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            raise SinkRefused(
                f"{str(path)!r} has version {version}, expected {_VERSION}. Install the tapeloom-files"
                " that wrote it, or a newer one."
            )
        for statement in _TABLES:
            self._database.execute(statement)
        self._database.execute(f"PRAGMA user_version={_VERSION}")

    def resume(self, epoch: int) -> Resume:
        """Return what is stored."""
        row = self._database.execute("SELECT last FROM run WHERE epoch = ?", [epoch]).fetchone()
        positions = dict(self._database.execute("SELECT key, value FROM position"))
        return Resume(row[0] if row else 0, positions)

    def files(self) -> dict[str, int]:
        """Return the names of the open files, with the size of what is stored in them."""
        return dict(self._database.execute("SELECT name, size FROM file"))

    def is_new(self) -> bool:
        """Return whether no run has been stored yet."""
        return not self._database.execute("SELECT count(*) FROM run").fetchone()[0]

    def commit(self, batch: SinkBatch, sizes: Mapping[str, int]) -> None:
        """Store the number and the positions of a batch, and the new sizes of files, in one transaction."""
        database = self._database
        database.execute("BEGIN")
        database.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", [batch.epoch, batch.last])
        positions, files = list(batch.positions.items()), list(sizes.items())
        database.executemany("INSERT OR REPLACE INTO position VALUES (?, ?)", positions)
        database.executemany("INSERT OR REPLACE INTO file VALUES (?, ?)", files)
        database.execute("COMMIT")

    def forget_files(self) -> None:
        """Take account of open files that are complete now."""
        self._database.execute("DELETE FROM file")

    def close(self) -> None:
        """Close the database; a transaction that was not committed is undone."""
        self._database.close()
