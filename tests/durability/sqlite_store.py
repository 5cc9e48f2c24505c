"""A plugin for tests: a sink into a SQLite file, as its author would write it first."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from attrs import frozen
from tapeloom.events import Event, decode, encode
from tapeloom.hooks import hookimpl
from tapeloom.plugin import Guarantee, Resume, SinkBatch, SinkRun

TABLES = """
CREATE TABLE IF NOT EXISTS event (epoch INTEGER, n INTEGER, line TEXT);
CREATE TABLE IF NOT EXISTS cursor (sink TEXT, epoch INTEGER, n INTEGER, PRIMARY KEY (sink, epoch));
CREATE TABLE IF NOT EXISTS position (sink TEXT, key TEXT, value TEXT, PRIMARY KEY (sink, key));
"""


@frozen
class SqliteSettings:
    """The keys of the sink's table."""

    path: str  #: The file.
    forgetful: bool = (
        False  #: Whether `open` says that nothing is stored, as a careless author would.
    )


class SqliteSink:
    """Stores events in a SQLite file."""

    guarantee: Guarantee = "exactly_once"

    def __init__(self, settings: SqliteSettings) -> None:
        self._settings = settings
        self._database: sqlite3.Connection | None = None
        self._sink = ""

    def open(self, run: SinkRun) -> Resume:
        """Open the file, and return the number and the positions in it."""
        database = self._database = sqlite3.connect(
            self._settings.path, isolation_level=None, check_same_thread=False
        )
        database.executescript(TABLES)
        self._sink = run.sink
        if self._settings.forgetful:
            return Resume()
        find = "SELECT n FROM cursor WHERE sink = ? AND epoch = ?"
        row = database.execute(find, [run.sink, run.epoch]).fetchone()
        positions = database.execute("SELECT key, value FROM position WHERE sink = ?", [run.sink])
        return Resume(row[0] if row else 0, dict(positions))

    def write(self, batch: SinkBatch) -> None:
        """Store a batch, its last number and the positions in one transaction."""
        assert self._database is not None
        database, sink = self._database, self._sink
        rows = [
            (batch.epoch, n, encode(event)) for n, event in enumerate(batch.events, batch.first)
        ]
        positions = [(sink, *item) for item in batch.positions.items()]
        database.execute("BEGIN")
        database.executemany("INSERT INTO event VALUES (?, ?, ?)", rows)
        database.execute(
            "INSERT OR REPLACE INTO cursor VALUES (?, ?, ?)", [sink, batch.epoch, batch.last]
        )
        database.executemany("INSERT OR REPLACE INTO position VALUES (?, ?, ?)", positions)
        database.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            self._database.close()


@hookimpl
def settings() -> type[SqliteSettings]:
    """Return the class of the sink's table."""
    return SqliteSettings


@hookimpl
def sink(settings: SqliteSettings) -> SqliteSink:
    """Return the sink."""
    return SqliteSink(settings)


def read(path: Path) -> Sequence[Event]:
    """Return the events in a file, in the order in which they were stored."""
    if not path.exists():
        return []
    with closing(sqlite3.connect(path)) as database:
        try:
            return [decode(line) for (line,) in database.execute("SELECT line FROM event")]
        except sqlite3.OperationalError:  # the table is not there yet
            return []
