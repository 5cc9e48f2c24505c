"""The sink: writes each batch in one transaction, together with its number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import psycopg
import structlog
from psycopg import sql
from tapeloom.errors import BatchRefused, SinkUnavailable
from tapeloom.events import BY_TYPE, BaseEvent
from tapeloom.plugin import Resume, SinkBatch, SinkRun
from tapeloom.plugin.sinks import Guarantee

from .connection import connect
from .errors import translated
from .occurrences import Occurrences, Source
from .rows import keys_of, rows
from .schema import Database, Schema
from .settings import Settings
from .tables import Table, table_of

__all__ = ["PostgresSink"]

log = structlog.get_logger()


@attrs.define(eq=False)
class _Group:
    """The events of one class in a batch."""

    table: Table
    numbers: Sequence[int]
    events: Sequence[BaseEvent]
    keys: list[str] = attrs.field(init=False)
    counted: list[int] = attrs.field(init=False)  #: the indexes of events that are counted
    body: bytes = b""  #: the rows as COPY reads them

    def __attrs_post_init__(self) -> None:
        self.keys, self.counted = keys_of(self.table, self.events)


class PostgresSink:
    """Writes events to the tables of one schema.

    The number of the last event is stored in the transaction of its batch, and is the first thing that a
    transaction changes. It changes only from the number that this sink knows, so a transaction whose
    acknowledgement was lost, and that is still under way, is waited for, and its events are not written
    twice.
    """

    guarantee: Guarantee = "exactly_once"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: Database | None = None
        self._run = SinkRun("", 0)
        self._last = self._latest = 0
        self._tables: dict[type[BaseEvent], Table] = {}
        self._occurrences: dict[type[BaseEvent], Occurrences] = {}
        self._staged: set[str] = set()  # tables whose last batch had rows that are stored
        self._cursor_statement = self._statement(_UPDATE_CURSOR)

    def open(self, run: SinkRun) -> Resume:
        """Connect, create what is missing, and return what is stored of the run."""
        self.close()
        self._run = run
        self._occurrences = {}
        with translated(self._settings.secrets):
            self._connection = database = connect(self._settings)
            self._tables = {table.event_class: table for table in self._known_tables()}
            self._schema(database).prepare(list(self._tables.values()))
            key = [run.sink, run.epoch]
            database.execute(self._statement(_INSERT_CURSOR), key)
            rows_found = database.execute(self._statement(_SELECT_CURSOR), key).fetchall()
            ((self._last, self._latest),) = rows_found
            positions = database.execute(self._statement(_SELECT_POSITIONS), [run.sink]).fetchall()
        return Resume(self._last, dict(positions))

    def write(self, batch: SinkBatch) -> None:
        """Store a batch, its number and positions in one transaction."""
        if self._connection is None:
            raise SinkUnavailable("the sink is not open. Open it before it is written to.")
        with translated(self._settings.secrets, writes=True):
            groups = self._groups(batch)
            try:
                self._write(self._connection, batch, groups, self._staged)
            except psycopg.errors.UniqueViolation:
                names = {group.table.name for group in groups}
                self._write(self._connection, batch, groups, names)
        self._last = batch.last

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def check(self) -> list[str]:
        """Return lines about the server, the schema and its tables; change nothing."""
        with translated(self._settings.secrets), connect(self._settings) as database:
            database.read_only = True
            info = database.info
            encoding, fsync = database.execute(
                "SELECT current_setting('server_encoding'), current_setting('fsync')"
            ).fetchall()[0]
            version = info.parameter_status("server_version")
            whose = f"database {info.dbname!r}, role {info.user!r}, encoding {encoding}"
            lines = [f"PostgreSQL {version}, {whose}"]
            with database.transaction():
                lines += self._schema(database).check(self._known_tables())
            if fsync == "off":
                lines.append(
                    "fsync is off: what is stored may be lost if the server's machine fails"
                )
        return lines

    # ------------------------------------------------------------------------------------- tables

    def _schema(self, database: Database) -> Schema:
        return Schema(database, self._settings.schema, self._settings.chunk)

    def _known_tables(self) -> list[Table]:
        """Return the tables of all event classes that are known; a class without one is refused later."""
        found = []
        for event_class in BY_TYPE.values():
            try:
                found.append(table_of(self._settings.schema, event_class))
            except BatchRefused:
                continue
        return found

    def _table(self, event_class: type[BaseEvent]) -> Table:
        """Return the table of a class, which is created if the class is new."""
        table = self._tables.get(event_class)
        if table is None:
            assert self._connection is not None
            table = table_of(self._settings.schema, event_class)
            self._schema(self._connection).prepare([table])
            self._tables[event_class] = table
        return table

    def _statement(self, text: str) -> sql.Composed:
        return sql.SQL(text).format(schema=sql.Identifier(self._settings.schema))

    # ------------------------------------------------------------------------------------- batches

    def _groups(self, batch: SinkBatch) -> list[_Group]:
        """Return the events of a batch by class, each with its number."""
        if len(classes := set(map(type, batch.events))) == 1:
            return [_Group(self._table(*classes), range(batch.first, batch.last + 1), batch.events)]
        by_class: dict[type[BaseEvent], tuple[list[int], list[BaseEvent]]] = {}
        for number, event in enumerate(batch.events, batch.first):
            group = by_class.get(type(event))
            if group is None:
                group = by_class[type(event)] = ([], [])
            group[0].append(number)
            group[1].append(event)
        return [_Group(self._table(cls), *group) for cls, group in by_class.items()]

    def _write(
        self, database: Database, batch: SinkBatch, groups: Sequence[_Group], staged: set[str]
    ) -> None:
        """Write groups in one transaction: directly, or through a temporary table those of *staged*."""
        repeated, conflicts = set(), []
        with database.transaction():
            self._advance(database, batch, groups)
            for group in groups:
                if not group.body:
                    group.body = self._rows(database, group)
                if group.table.rule == "first" and group.table.name not in staged:
                    self._copy(database, group.table.copy, group.body)
                    continue
                inserted = self._merge(database, group)
                if group.table.rule == "first" and inserted < len(group.events):
                    repeated.add(group.table.name)
                    conflicts += self._find_conflicts(database, group.table)
        self._staged = repeated
        if conflicts:
            log.error(
                "sink_conflict", sink=self._run.sink, epoch=self._run.epoch, events=len(conflicts),
                first=conflicts[0], table=f"{self._settings.schema}._conflict",
            )  # fmt: skip

    def _advance(self, database: Database, batch: SinkBatch, groups: Sequence[_Group]) -> None:
        """Store the number and the positions of a batch. Raises SinkUnavailable if the number has changed."""
        times = [group.events[index].ts for group in groups for index in group.counted]
        latest = max(times, default=self._latest)
        run, positions = self._run, batch.positions
        values = [
            run.sink, list(positions), list(positions.values()),
            batch.last, latest, run.sink, run.epoch, self._last,
        ]  # fmt: skip
        if database.execute(self._cursor_statement, values).rowcount != 1:
            raise SinkUnavailable(
                f"the number of this run is not {self._last} any more: another transaction or process has"
                " written. If it goes on, stop the other process that runs the same stack."
            )

    def _rows(self, database: Database, group: _Group) -> bytes:
        keys = group.keys if any(group.keys) else ""
        counts = self._counts(database, group) if group.counted else "0"
        return rows(group.table, self._run.epoch, group.numbers, group.events, keys, counts)

    def _counts(self, database: Database, group: _Group) -> list[int]:
        """Return for each event of a group how many equal ones came before it in this run."""
        occurrences = self._occurrences.get(group.table.event_class)
        if occurrences is None:
            occurrences = Occurrences(group.table, self._latest)
            self._occurrences[group.table.event_class] = occurrences
        found = occurrences.count(
            [group.events[index] for index in group.counted],
            [group.keys[index] for index in group.counted],
            lambda times: self._stored(database, group.table, times),
        )
        counts = [0] * len(group.events)
        for index, count in zip(group.counted, found, strict=True):
            counts[index] = count
        return counts

    def _stored(
        self, database: Database, table: Table, times: Iterable[tuple[Source, int]]
    ) -> Iterable[tuple[Source, int, str, int]]:
        """Return how many equal events of this run are stored at some times."""
        columns = zip(*[(*source, ts) for source, ts in times], strict=True)
        values = [*map(list, columns), self._run.epoch]
        for *source, ts, key, count in database.execute(table.count_equal, values):
            yield (source[0], source[1], source[2], source[3]), ts, key, count

    def _copy(self, database: Database, statement: sql.Composed, body: bytes) -> None:
        with database.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(body)

    def _merge(self, database: Database, group: _Group) -> int:
        """Write rows that may be stored already; return how many were not."""
        database.execute(group.table.create_staging)
        self._copy(database, group.table.copy_to_staging, group.body)
        return database.execute(group.table.merge).rowcount

    def _find_conflicts(self, database: Database, table: Table) -> list[int]:
        """Store the events whose key is stored with another content; return their numbers."""
        values: list[Any] = [self._run.sink, table.name]
        return [number for (number,) in database.execute(table.find_conflicts, values)]


_INSERT_CURSOR = "INSERT INTO {schema}._cursor (sink, epoch, n, latest) VALUES (%s, %s, 0, 0) ON CONFLICT DO NOTHING"
_SELECT_CURSOR = "SELECT n, latest FROM {schema}._cursor WHERE sink = %s AND epoch = %s"
_SELECT_POSITIONS = "SELECT key, value FROM {schema}._position WHERE sink = %s"
#: The positions and the number in one statement, which spares a round trip.
_UPDATE_CURSOR = """
WITH positions AS (
    INSERT INTO {schema}._position (sink, key, value)
    SELECT %s, key, value FROM unnest(%s::text[], %s::text[]) AS new(key, value)
    ON CONFLICT (sink, key) DO UPDATE SET value = excluded.value
)
UPDATE {schema}._cursor SET n = %s, latest = greatest(latest, %s), changed = now()
WHERE sink = %s AND epoch = %s AND n = %s
"""
