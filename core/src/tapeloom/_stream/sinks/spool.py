"""A bounded queue of events on disk, in a SQLite database, for one sink.

What `append` has returned for survives the death of the process and of the machine: the log is written
ahead and synchronised at each commit (WAL, FULL). It is deleted once it is stored and the positions that
follow from it are saved, at most once a second.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tapeloom.errors import SinkRefused, SinkUnavailable
from tapeloom.events import Event

from .spool_format import pack, unpack

#: The version of the tables, in `PRAGMA user_version`.
_VERSION = 2
_TABLES = (
    "CREATE TABLE IF NOT EXISTS batch (first INTEGER PRIMARY KEY, count INTEGER, body BLOB)",
    "CREATE TABLE IF NOT EXISTS position (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS cursor (number INTEGER, key TEXT, value TEXT)",
    "CREATE TABLE IF NOT EXISTS run (epoch INTEGER, stored INTEGER, accepted INTEGER)",
)
_NO_POSITIONS: Mapping[str, str] = MappingProxyType({})


class Spool:
    """The events of one sink that are not stored yet, on disk, in order of their numbers.

    *limit* is the maximum of their bytes. All methods block and may be called from any thread, one at a
    time. Each raises SinkUnavailable if the disk does not take it, such as when it is full.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._database: sqlite3.Connection | None = None
        self.epoch = 0  #: the number of the run that the events are numbered in
        self.stored = 0  #: number of the last event that is stored, as of the last save
        self.accepted = 0  #: number of the last event that the saved positions include
        self.last = 0  #: number of the last event
        self.bytes = 0  #: size of the events that are not stored
        self.count = 0  #: number of events that are not stored

    @property
    def is_open(self) -> bool:
        """Whether the file is open."""
        return self._database is not None

    def open(self, epoch: int) -> Mapping[str, str]:
        """Open or create the file, and return the positions that were saved.

        A new file begins with the run *epoch*. Raises SinkRefused if it is not a spool, or in use.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._database = database = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False, timeout=0
            )
            database.execute("PRAGMA locking_mode=EXCLUSIVE")
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            database.execute("BEGIN EXCLUSIVE")
            self._create(epoch)
            database.execute("COMMIT")
        except SinkRefused:
            self.close()
            raise
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise self._refused(error) from error
        row = database.execute("SELECT epoch, stored, accepted FROM run").fetchone()
        self.epoch, self.stored, self.accepted = row
        count, size, last = database.execute(
            "SELECT sum(count), sum(length(body)), max(first + count - 1) FROM batch"
        ).fetchone()
        self.count, self.bytes, self.last = count or 0, size or 0, max(last or 0, self.stored)
        return dict(database.execute("SELECT key, value FROM position"))

    def _create(self, epoch: int) -> None:
        assert self._database is not None
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            raise SinkRefused(
                f"the spool {str(self._path)!r} has version {version}, expected {_VERSION}. Let the version"
                " of tapeloom that wrote it store what is in it, or delete it."
            )
        for statement in _TABLES:
            self._database.execute(statement)
        self._database.execute(f"PRAGMA user_version={_VERSION}")
        if not self._database.execute("SELECT count(*) FROM run").fetchone()[0]:
            self._database.execute("INSERT INTO run VALUES (?, 0, 0)", [epoch])

    def _refused(self, error: Exception) -> SinkRefused:
        path = str(self._path)
        if "locked" in str(error):
            text = f"the spool {path!r} is used by another process. Stop it, or give the sink another name."
        else:
            text = (
                f"the spool {path!r} cannot be opened: {error}. Choose another `spool_folder`, or, if"
                " the file is no spool, move it away."
            )
        return SinkRefused(text)

    def cursors(self) -> Iterator[tuple[int, Mapping[str, str]]]:
        """Yield the cursors of relays whose events are not stored, each with the last event's number."""
        assert self._database is not None
        rows = "SELECT number, key, value FROM cursor ORDER BY number"
        for number, key, value in self._database.execute(rows):
            yield number, {key: value}

    def append(self, events: Sequence[Event], cursors: Mapping[str, str] = _NO_POSITIONS) -> bool:
        """Add events, and the cursors after them; return when they are on disk.

        Return False, without adding, if it is full.
        """
        body = pack(events)
        if self.count and self.bytes + len(body) > self._limit:
            return False
        last = self.last + len(events)
        if cursors:
            self._run("BEGIN", [])
            for item in cursors.items():
                self._run("INSERT INTO cursor VALUES (?, ?, ?)", [last, *item])
        self._run("INSERT INTO batch VALUES (?, ?, ?)", [self.last + 1, len(events), body])
        if cursors:
            self._run("COMMIT", [])
        self.last = last
        self.count += len(events)
        self.bytes += len(body)
        return True

    def read(self, after: int, count: int) -> tuple[int, list[Event]]:
        """Return about *count* of the events after the number *after*, and the number of the first."""
        assert self._database is not None
        found: list[Event] = []
        first = after + 1
        rows = "SELECT first, body FROM batch WHERE first + count > ? ORDER BY first"
        try:
            for start, body in self._database.execute(rows, [first]):
                events = unpack(body)
                found += events[first + len(found) - start :]
                if len(found) >= count:
                    break
        except (sqlite3.Error, ValueError) as error:
            raise self._unavailable(error) from error
        return first, found

    def save(self, stored: int, positions: Mapping[str, str] = _NO_POSITIONS) -> None:
        """Delete the events up to the number *stored*, and save *positions*, in one transaction."""
        assert self._database is not None
        where = "FROM batch WHERE first + count - 1 <= ?"
        try:
            self._database.execute("BEGIN")
            count, size = self._database.execute(
                f"SELECT sum(count), sum(length(body)) {where}", [stored]
            ).fetchone()
            self._database.execute(f"DELETE {where}", [stored])
            self._database.executemany(
                "INSERT OR REPLACE INTO position VALUES (?, ?)", positions.items()
            )
            self._database.execute(
                "INSERT OR REPLACE INTO position SELECT key, value FROM cursor"
                " WHERE number <= ? ORDER BY number",
                [stored],
            )
            self._database.execute("DELETE FROM cursor WHERE number <= ?", [stored])
            accepted = max(self.last, stored)
            self._database.execute("UPDATE run SET stored = ?, accepted = ?", [stored, accepted])
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise self._unavailable(error) from error
        self.stored = stored
        self.last = self.accepted = accepted
        self.count -= count or 0
        self.bytes -= size or 0

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _run(self, statement: str, values: Sequence[Any]) -> None:
        assert self._database is not None
        try:
            self._database.execute(statement, values)
        except sqlite3.Error as error:
            self._roll_back()
            raise self._unavailable(error) from error

    def _roll_back(self) -> None:
        if self._database is not None and self._database.in_transaction:
            self._database.rollback()

    def _unavailable(self, error: Exception) -> SinkUnavailable:
        return SinkUnavailable(
            f"the spool {str(self._path)!r} cannot be written or read: {error}. Free space on its disk."
        )
