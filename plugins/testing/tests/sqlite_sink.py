"""A sink that keeps events in a SQLite file, each one once; and the same sink with defects.

The defect is a setting, so that the processes of the contract have it too.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from threading import get_ident

import attrs
from tapeloom import encode
from tapeloom.errors import SinkRefused, SinkUnavailable
from tapeloom.events import Event, Trade
from tapeloom.hooks import hookimpl
from tapeloom.plugin import Guarantee, Resume, SinkBatch, SinkRun

TABLES = """
CREATE TABLE IF NOT EXISTS event (epoch INTEGER, n INTEGER, line TEXT);
CREATE TABLE IF NOT EXISTS run (sink TEXT, epoch INTEGER, last INTEGER, PRIMARY KEY (sink, epoch));
CREATE TABLE IF NOT EXISTS position (sink TEXT, key TEXT, value TEXT, PRIMARY KEY (sink, key));
"""


@attrs.frozen(kw_only=True)
class Settings:
    path: str
    password: str = attrs.field(default="", repr=False)
    guarantee: Guarantee = "exactly_once"
    is_async: bool = False
    defect: str = ""


class SqliteSink:
    def __init__(self, settings: Settings) -> None:
        self.guarantee: Guarantee = settings.guarantee
        self._settings = settings
        self._defect = settings.defect
        if self._defect == "promises anything":
            self.guarantee = "exactly-once"  # type: ignore[assignment]
        self._run = SinkRun("", 0)
        self._database: sqlite3.Connection | None = None
        self._opened = 0

    def _connect(self, uri: str = "") -> sqlite3.Connection:
        path = Path(self._settings.path)
        database: sqlite3.Connection | None = None
        try:
            database = sqlite3.connect(uri or path, uri=bool(uri), check_same_thread=False)
            database.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.Error as error:
            if database is not None:
                database.close()
            secret = f" with {self._settings.password}" if self._defect == "shows secrets" else ""
            raise SinkRefused(f"{path}{secret}: {error}. Choose another path.") from error
        return database

    def open(self, run: SinkRun) -> Resume:
        if self._defect == "hides failures":
            with contextlib.suppress(SinkRefused):
                self._database = self._connect()
        else:
            self._database = self._connect()
        if self._database is None:
            return Resume()
        self._run = run
        self._thread = get_ident()
        self._opened += 1
        self._waiting: list[SinkBatch] = []
        self._unsaved: SinkBatch | None = None
        self._database.execute("PRAGMA synchronous=OFF")  # processes are killed, not the machine
        self._database.executescript(TABLES)
        if self.guarantee == "at_least_once" or self._defect == "ignores its cursor":
            return Resume()
        where = "" if self._defect == "mixes runs" else " AND epoch = ?"
        values = [run.sink, run.epoch][: 1 + bool(where)]
        query = f"SELECT max(last) FROM run WHERE sink = ?{where}"
        (last,) = self._database.execute(query, values).fetchone()
        query = "SELECT key, value FROM position WHERE sink = ?"
        return Resume(last or 0, dict(self._database.execute(query, [run.sink])))

    def write(self, batch: SinkBatch) -> None:
        assert self._database is not None
        if self._defect == "keeps to a thread" and get_ident() != self._thread:
            # SQLite's own check would also keep `close` from closing the connection.
            raise sqlite3.ProgrammingError("It can only be used in that same thread.")
        if self._defect == "drops a batch on retry" and self._opened > 1:
            self._opened = 1  # it takes the first batch for the one that failed
            return
        if self._defect == "buffers until it is closed":
            self._waiting.append(batch)
            return
        if self._defect == "saves its cursor with the next batch":
            self._save_cursor(self._unsaved)
            self._unsaved = batch
            self._save_events(batch)
        elif self.guarantee == "at_most_once":
            self._save_cursor(batch)
            self._database.commit()
            self._save_events(batch)
        else:
            self._save_events(batch)
            self._save_cursor(batch)
        self._database.commit()

    def _save_events(self, batch: SinkBatch) -> None:
        assert self._database is not None
        rows = [
            (batch.epoch, number, self._line(event))
            for number, event in enumerate(batch.events, batch.first)
        ]
        self._database.executemany("INSERT INTO event VALUES (?, ?, ?)", rows)

    def _line(self, event: Event) -> str:
        if self._defect == "raises on text ids" and type(event) is Trade:
            number = int(event.id or 0)
            assert number >= 0
        return encode(event)

    def _save_cursor(self, batch: SinkBatch | None) -> None:
        assert self._database is not None
        if batch is None:
            return
        cursor = self._run.sink, batch.epoch, batch.last
        self._database.execute("INSERT OR REPLACE INTO run VALUES (?, ?, ?)", cursor)
        rows = [(self._run.sink, key, value) for key, value in batch.positions.items()]
        self._database.executemany("INSERT OR REPLACE INTO position VALUES (?, ?, ?)", rows)

    def close(self) -> None:
        if self._database is None:
            return
        for batch in self._waiting:
            self._save_events(batch)
            self._save_cursor(batch)
        if self._defect == "saves its cursor with the next batch":
            self._save_cursor(None)
        self._database.commit()
        self._database.close()
        self._database = None

    def check(self) -> Sequence[str]:
        if self._defect == "creates its store in check":
            self._connect().close()
        if not Path(self._settings.path).exists():
            raise SinkUnavailable(f"{self._settings.path} does not exist. It is created by a run.")
        with contextlib.closing(self._connect(f"file:{self._settings.path}?mode=ro")) as database:
            (count,) = database.execute("SELECT count(*) FROM event").fetchone()
        return [f"SQLite {sqlite3.sqlite_version}", f"{count} events"]


class AsyncSqliteSink:
    """The same with async methods, for one event loop if its settings say so."""

    def __init__(self, settings: Settings) -> None:
        self.guarantee: Guarantee = settings.guarantee
        self._one_loop = settings.defect == "runs on one loop"
        self._sink = SqliteSink(settings)

    async def open(self, run: SinkRun) -> Resume:
        if self._one_loop:
            import asyncio

            asyncio.get_running_loop()
        return self._sink.open(run)

    async def write(self, batch: SinkBatch) -> None:
        self._sink.write(batch)

    async def close(self) -> None:
        self._sink.close()


@hookimpl
def settings() -> type[Settings]:
    return Settings


@hookimpl
def sink(settings: Settings) -> SqliteSink | AsyncSqliteSink:
    return AsyncSqliteSink(settings) if settings.is_async else SqliteSink(settings)
