"""The table of an event class: its columns, what makes a row unique, and the statements that use it.

`epoch` and `n` say in which run, and as which event of it, a row was written. `key` and `k` tell events
apart that have no id: `key` has the number of the event, or else a digest of what it says, and `k` says
how many events with that key came before it at the same time of the same run.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import attrs
from psycopg import sql
from tapeloom.errors import BatchRefused
from tapeloom.events import OURS, Bar, BaseEvent

from .columns import Column, columns
from .settings import MAX_NAME_BYTES

__all__ = ["OWN", "Table", "table_of"]

#: The columns that are not fields of the event, and their types.
OWN = {"epoch": "bigint", "n": "bigint", "key": "text", "k": "integer"}
#: The parts of the unique key of every table, `ts` first: TimescaleDB needs it, and ranges of time use it.
_SOURCE = ("ts", "symbol", "channel", "venue")
#: Columns that say how an event came, not what it says.
_WAY = frozenset({"recv", "origin"})

#: How rows with an equal key are treated.
#: first: The first one stays; another content is a conflict.
#: best: A closed bar replaces a forming one, a complete one an incomplete one; else the later one stays: by
#: its number within a run, by `recv` between runs, since their numbers say nothing of each other.
Rule = Literal["first", "best"]


@attrs.define(frozen=True, slots=False)
class Table:
    """The table of one event class in one PostgreSQL schema."""

    schema: str
    event_class: type[BaseEvent]
    columns: tuple[Column, ...]  #: of the fields of the event
    key: tuple[str, ...]  #: the columns of the unique index
    rule: Rule

    @property
    def name(self) -> str:
        """The name of the table: the type of its events."""
        return self.event_class.type

    @property
    def index(self) -> str:
        """The name of the unique index."""
        return f"{self.name}_identity"

    @cached_property
    def types(self) -> dict[str, str]:
        """The types of all columns by name, in the order of the table."""
        return {column.name: column.type for column in self.columns} | OWN

    @cached_property
    def content(self) -> list[str]:
        """The columns in which a repeated event must have the values that are stored."""
        return [name for name in self.types if name not in {*self.key, *_WAY, *OWN}]

    @cached_property
    def target(self) -> sql.Identifier:
        """The name of the table in a statement."""
        return sql.Identifier(self.schema, self.name)

    @cached_property
    def staging(self) -> sql.Identifier:
        """The name of the temporary table in a statement."""
        return sql.Identifier("pg_temp", f"{self.name}_batch")

    def create(self) -> list[sql.Composed]:
        """Return the statements that create the table and its index."""
        return [
            sql.SQL("CREATE TABLE {} ({})").format(self.target, self._definitions()),
            self.create_index(),
        ]

    def create_index(self) -> sql.Composed:
        """Return the statement that creates the unique index."""
        names = (sql.Identifier(self.index), self.target, _names(self.key))
        return sql.SQL("CREATE UNIQUE INDEX {} ON {} ({})").format(*names)

    @cached_property
    def create_staging(self) -> sql.Composed:
        """The statement that creates the temporary table, which is empty after each transaction."""
        return sql.SQL("CREATE TEMPORARY TABLE IF NOT EXISTS {} ({}) ON COMMIT DELETE ROWS").format(
            self.staging, self._definitions()
        )

    def add_column(self, name: str) -> sql.Composed:
        """Return the statement that adds a column, which is null in the rows that are there."""
        return sql.SQL("ALTER TABLE {} ADD COLUMN {}").format(self.target, self._definition(name))

    @cached_property
    def copy(self) -> sql.Composed:
        """The statement that copies rows into the table."""
        return self._copy(self.target)

    @cached_property
    def copy_to_staging(self) -> sql.Composed:
        """The statement that copies rows into the temporary table."""
        return self._copy(self.staging)

    @cached_property
    def merge(self) -> sql.Composed:
        """The statement that takes the rows of the temporary table over, in order."""
        names = _names(self.types)
        parts = {
            "target": self.target,
            "staging": self.staging,
            "names": names,
            "key": _names(self.key),
        }
        if self.rule == "first":
            return sql.SQL(
                "INSERT INTO {target} ({names}) SELECT {names} FROM {staging} ORDER BY n"
                " ON CONFLICT ({key}) DO NOTHING"
            ).format(**parts)
        changed = [name for name in self.types if name not in self.key]
        new = sql.SQL(", ").join(sql.SQL("excluded.{}").format(sql.Identifier(n)) for n in changed)
        return sql.SQL(
            "INSERT INTO {target} AS stored ({names})"
            " SELECT DISTINCT ON ({key}) {names} FROM {staging}"
            " ORDER BY {key}, closed DESC, (closed AND complete) DESC, n DESC"
            " ON CONFLICT ({key}) DO UPDATE SET ({changed}) = ROW({new}) WHERE"
            " (excluded.closed, excluded.closed AND excluded.complete)"
            " > (stored.closed, stored.closed AND stored.complete)"
            " OR (excluded.closed, excluded.closed AND excluded.complete)"
            " = (stored.closed, stored.closed AND stored.complete)"
            " AND CASE WHEN excluded.epoch = stored.epoch THEN excluded.n > stored.n"
            " ELSE excluded.recv > stored.recv END"
        ).format(**parts, changed=_names(changed), new=new)

    @cached_property
    def find_conflicts(self) -> sql.Composed:
        """The statement that stores the rows whose key has another content; it takes sink and type."""
        staged, stored = (
            sql.SQL(", ").join(self._comparable(alias, name) for name in self.content)
            for alias in ("staged", "stored")
        )
        return sql.SQL(
            "INSERT INTO {} (sink, type, epoch, n, ts, venue, symbol, channel, stored, received)"
            " SELECT %s, %s, staged.epoch, staged.n, staged.ts, staged.venue, staged.symbol,"
            " staged.channel, row_to_json(stored.*), row_to_json(staged.*)"
            " FROM {} AS staged JOIN {} AS stored USING ({})"
            " WHERE ROW({}) IS DISTINCT FROM ROW({}) ORDER BY staged.n"
            " ON CONFLICT DO NOTHING RETURNING n"
        ).format(
            sql.Identifier(self.schema, "_conflict"), self.staging, self.target, _names(self.key),
            staged, stored,
        )  # fmt: skip

    @cached_property
    def count_equal(self) -> sql.Composed:
        """The statement that returns how many equal events this run has stored at given times.

        It takes the epoch, and arrays of venues, symbols, channels, origins and times.
        """
        has_origin = "origin" in self.types
        origin = sql.SQL("stored.origin") if has_origin else sql.SQL("''")
        return sql.SQL(
            "SELECT stored.venue, stored.symbol, stored.channel, {origin}, stored.ts, stored.key,"
            " max(stored.k) + 1 FROM {target} AS stored"
            " JOIN unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[])"
            " AS wanted(venue, symbol, channel, origin, ts)"
            " ON stored.ts = wanted.ts AND stored.symbol = wanted.symbol"
            " AND stored.channel = wanted.channel AND stored.venue = wanted.venue"
            " AND {origin} = wanted.origin"
            " WHERE stored.epoch = %s GROUP BY 1, 2, 3, 4, 5, 6"
        ).format(origin=origin, target=self.target)

    def _copy(self, into: sql.Identifier) -> sql.Composed:
        return sql.SQL("COPY {} ({}) FROM STDIN").format(into, _names(self.types))

    def _definitions(self) -> sql.Composed:
        return sql.SQL(", ").join(map(self._definition, self.types))

    def _definition(self, name: str) -> sql.Composed:
        # Texts compare by their bytes: faster, and the same after an update of the system.
        kind = self.types[name]
        collation = ' COLLATE "C"' if kind == "text" else ""
        null = " NOT NULL" if name in {*self.key, *OWN} else ""
        return sql.SQL("{} " + kind + collation + null).format(sql.Identifier(name))

    def _comparable(self, alias: str, name: str) -> sql.Composed:
        # PostgreSQL does not compare json.
        cast = "::text" if self.types[name] == "json" else ""
        return sql.SQL(alias + ".{}" + cast).format(sql.Identifier(name))


def _names(names: Sequence[str] | dict[str, str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def table_of(schema: str, event_class: type[BaseEvent]) -> Table:
    """Return the table of an event class. Raises BatchRefused if the class cannot have a table."""
    name = event_class.type
    found = columns(event_class)
    names = [column.name for column in found]
    if name.startswith("_") or len(f"{name}_identity".encode()) > MAX_NAME_BYTES:
        raise BatchRefused(
            f"the event type {name!r} is no name for a table: expected at most"
            f" {MAX_NAME_BYTES - len('_identity')} bytes and no _ at its start. Rename the type."
        )
    if clashing := sorted(
        {column for column in names if names.count(column) > 1} | {*names} & {*OWN}
    ):
        raise BatchRefused(
            f"the event type {name!r} has a field {clashing[0]!r}, and the table has a column of that"
            " name already. Rename the field."
        )
    return Table(schema, event_class, found, *_key(event_class, names))


def _key(event_class: type[BaseEvent], names: Sequence[str]) -> tuple[tuple[str, ...], Rule]:
    """Return what makes a row unique, and what happens to an equal one."""
    if event_class is Bar:
        return (*_SOURCE, "interval"), "best"
    if event_class in OURS:  # facts of one run
        return (*_SOURCE, "epoch", "n"), "first"
    return (*_SOURCE, *(name for name in ("kind", "id") if name in names), "key", "k"), "first"
