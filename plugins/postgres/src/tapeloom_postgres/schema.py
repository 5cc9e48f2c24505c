"""Creates the tables, adds what they lack, and finds what is incompatible in those that are there.

The tables whose names begin with `_` are those of the sink itself; their version is in `_version`, and
`MIGRATIONS` brings them to the newest one. The tables of events have no version: they are compared with
the columns that their class has now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import attrs
from psycopg import Connection, sql
from tapeloom.errors import SinkRefused

from .tables import OWN, Table

__all__ = ["Schema"]

Database: TypeAlias = Connection[tuple[Any, ...]]

#: The statements that bring the sink's own tables from each version to the next; version 0 has none.
MIGRATIONS: list[list[str]] = [
    [
        "CREATE TABLE {schema}._version (version integer NOT NULL)",
        "INSERT INTO {schema}._version VALUES (0)",
        # How far each run is stored; `latest` is the latest time of events without a number, in ns.
        """CREATE TABLE {schema}._cursor (sink text, epoch bigint, n bigint NOT NULL, latest bigint NOT NULL,
        changed timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (sink, epoch))""",
        "CREATE TABLE {schema}._position (sink text, key text, value text NOT NULL, PRIMARY KEY (sink, key))",
        # Events whose key is stored with another content: both of them.
        """CREATE TABLE {schema}._conflict (sink text, type text, epoch bigint, n bigint, ts bigint NOT NULL,
        venue text NOT NULL, symbol text NOT NULL, channel text NOT NULL, stored json NOT NULL,
        received json NOT NULL, found timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (sink, epoch, n))""",
    ]
]
OWN_TABLES = ("_version", "_cursor", "_position", "_conflict")
#: The rights that the sink needs for its tables.
_RIGHTS = ("SELECT", "INSERT", "UPDATE")
_KIND = {"v": "view", "m": "materialized view", "f": "foreign table", "S": "sequence", "i": "index"}


@attrs.frozen
class _Found:
    """A relation that is in the schema."""

    kind: str  #: PostgreSQL's letter for it: r and p are tables
    types: dict[str, str]  #: the types of the columns by name
    #: The columns that must be given: not null, and without a default.
    required: frozenset[str]
    indexes: dict[str, tuple[bool, list[str]]]  #: by name: whether it is unique and whole; columns
    lacking: list[str]  #: the rights that the role lacks


class Schema:
    """The schema of a sink in one database. All methods raise psycopg.Error, too."""

    def __init__(self, database: Database, name: str, chunk: int) -> None:
        self.name = name
        self._database = database
        self._chunk = chunk

    def prepare(self, tables: Sequence[Table]) -> None:
        """Create what is missing, in one transaction. Raises SinkRefused for what is incompatible."""
        with self._database.transaction():
            # Sinks of several processes may start at once.
            self._database.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"tapeloom {self.name}"]
            )
            if not self._exists():
                self._run("CREATE SCHEMA {schema}")
            self._migrate()
            found = self._found()
            statements = [part for table in tables for part in self._missing(table, found)]
            if statements:
                self._database.execute(sql.SQL("; ").join(statements))
            for table in tables:
                if table.name not in found:
                    self._make_hypertable(table)
            self._check_rights(found, tables)

    def check(self, tables: Sequence[Table]) -> Iterator[str]:
        """Yield lines about what is there and what would be created. Raises SinkRefused."""
        if not self._exists():
            self._check_database_right("CREATE", f"create the schema {self.name!r}")
            yield f"schema {self.name!r}: will be created, with {len(tables)} tables"
        else:
            version = self._version()
            yield f"schema {self.name!r}: version {version} of {len(MIGRATIONS)}"
            found = self._found()
            missing = {table.name: list(self._missing(table, found)) for table in tables}
            new = [name for name in missing if name not in found]
            changed = [name for name, statements in missing.items() if statements and name in found]
            if new or version < len(MIGRATIONS):
                self._check_schema_right()
            yield f"tables: {len(tables) - len(new)} there"
            if new:
                yield f"tables that will be created: {', '.join(new)}"
            if changed:
                yield f"tables that will get new columns or an index: {', '.join(changed)}"
            self._check_rights(found, tables)
        self._check_database_right("TEMPORARY", "create temporary tables")
        timescale = self._timescale()
        if timescale is not None:
            use = "new tables become hypertables" if self._chunk else "not used, since chunk is 0"
            yield f"TimescaleDB {timescale[1]}: {use}"

    def _exists(self) -> bool:
        found = self._value("SELECT count(*) FROM pg_namespace WHERE nspname = %s", self.name)
        return bool(found)

    def _version(self) -> int:
        """Return the version of the sink's own tables, 0 if there are none. Raises SinkRefused."""
        if not self._value("SELECT to_regclass(%s) IS NOT NULL", f'"{self.name}"."_version"'):
            return 0
        statement = sql.SQL("SELECT max(version) FROM {}").format(
            sql.Identifier(self.name, "_version")
        )
        row = self._database.execute(statement).fetchone()
        version = (row and row[0]) or 0
        if version > len(MIGRATIONS):
            raise SinkRefused(
                f"the schema {self.name!r} has version {version}, expected at most {len(MIGRATIONS)}: a"
                " newer tapeloom-postgres wrote it. Upgrade this one, or choose another `schema`."
            )
        return int(version)

    def _migrate(self) -> None:
        statements = [step for steps in MIGRATIONS[self._version() :] for step in steps]
        if statements:
            latest = f"UPDATE {{schema}}._version SET version = {len(MIGRATIONS)}"  # noqa: S608
            self._run("; ".join([*statements, latest]))

    def _run(self, statement: str) -> None:
        self._database.execute(sql.SQL(statement).format(schema=sql.Identifier(self.name)))

    def _value(self, statement: str, *values: Any) -> Any:
        row = self._database.execute(statement, values).fetchone()
        assert row is not None
        return row[0]

    def _found(self) -> dict[str, _Found]:
        """Return the relations of the schema by name."""
        rows = self._database.execute(_COLUMNS, [self.name]).fetchall()
        found: dict[str, _Found] = {}
        for name, kind, rights, column, type_name, must in rows:
            lacking = [right for right, has in zip(_RIGHTS, rights, strict=True) if not has]
            entry = found.setdefault(name, _Found(kind, {}, frozenset(must or ()), {}, lacking))
            if column is not None:
                entry.types[column] = type_name
        for name, index, is_unique, names in self._database.execute(_INDEXES, [self.name]):
            if name in found:
                found[name].indexes[index] = (is_unique, names)
        return found

    def _missing(self, table: Table, relations: dict[str, _Found]) -> Iterator[sql.Composed]:
        """Yield the statements that make a table what it should be. Raises SinkRefused."""
        found = relations.get(table.name)
        if found is None:
            yield from table.create()
            return
        if found.kind not in "rp":
            raise self._refused(table, f"a {_KIND.get(found.kind, 'relation')}", "a table")
        for name, kind in table.types.items():
            if found.types.get(name, kind) != kind:
                raise self._refused(table, f"column {name!r} of type {found.types[name]}", kind)
        for name, kind in table.types.items():
            if name not in found.types and name in {*table.key, *OWN}:
                raise self._refused(table, f"no column {name!r}", kind)
        if foreign := sorted(found.required - set(table.types)):
            raise self._refused(
                table,
                f"a column {foreign[0]!r} that must not be null",
                "no such column, or a default for it",
            )
        for name in table.types:
            if name not in found.types:
                yield table.add_column(name)
        if table.index not in found.indexes:
            yield table.create_index()
        elif found.indexes[table.index] != (True, list(table.key)):
            columns = ", ".join(found.indexes[table.index][1])
            raise self._refused(
                table,
                f"an index {table.index!r} on ({columns})",
                f"a unique one on ({', '.join(table.key)})",
            )

    def _refused(self, table: Table, got: str, expected: str) -> SinkRefused:
        return SinkRefused(
            f"the table {self.name}.{table.name} has {got}, expected {expected}. Rename the table or change"
            f" it, or choose another `schema`."
        )

    def _check_rights(self, found: dict[str, _Found], tables: Sequence[Table]) -> None:
        for name in (*OWN_TABLES, *(table.name for table in tables)):
            if name in found and found[name].lacking:
                rights = ", ".join(found[name].lacking)
                role = self._value("SELECT current_user")
                raise SinkRefused(
                    f"the role {role!r} lacks {rights} on the table {self.name}.{name}. Run"
                    f' GRANT {", ".join(_RIGHTS)} ON ALL TABLES IN SCHEMA "{self.name}" TO "{role}"'
                    " as their owner."
                )

    def _check_schema_right(self) -> None:
        if not self._value("SELECT has_schema_privilege(%s, 'CREATE')", self.name):
            role = self._value("SELECT current_user")
            raise SinkRefused(
                f"the role {role!r} may not create tables in the schema {self.name!r}. Run"
                f' GRANT CREATE ON SCHEMA "{self.name}" TO "{role}" as its owner.'
            )

    def _check_database_right(self, right: str, purpose: str) -> None:
        if not self._value("SELECT has_database_privilege(current_database(), %s)", right):
            role = self._value("SELECT current_user")
            database = self._value("SELECT current_database()")
            raise SinkRefused(
                f"the role {role!r} may not {purpose}. Run"
                f' GRANT {right} ON DATABASE "{database}" TO "{role}" as the owner of the database.'
            )

    def _timescale(self) -> tuple[str, str] | None:
        """Return the schema and the version of TimescaleDB, None if the database does not have it."""
        rows: Iterable[Any] = self._database.execute(
            "SELECT nspname, extversion FROM pg_extension"
            " JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'timescaledb'"
        )
        return next(iter(rows), None)

    def _make_hypertable(self, table: Table) -> None:
        """Make a new table a hypertable by `ts`, if the database has TimescaleDB."""
        found = self._timescale()
        if found is None or not self._chunk:
            return
        statement = sql.SQL(
            "SELECT {}(%s::regclass, 'ts', chunk_time_interval => %s, create_default_indexes => false)"
        ).format(sql.Identifier(found[0], "create_hypertable"))
        self._database.execute(statement, [f'"{self.name}"."{table.name}"', self._chunk])


#: The relations of a schema with their columns, types and rights, and the columns that must be given.
_COLUMNS = """
SELECT c.relname, c.relkind::text,
    ARRAY[has_table_privilege(c.oid, 'SELECT'), has_table_privilege(c.oid, 'INSERT'),
          has_table_privilege(c.oid, 'UPDATE')],
    a.attname, format_type(a.atttypid, a.atttypmod),
    array_agg(a.attname::text) FILTER (WHERE a.attnotnull AND NOT a.atthasdef AND a.attidentity = '')
        OVER (PARTITION BY c.oid)
FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE s.nspname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') ORDER BY c.relname, a.attnum
"""
#: The indexes of a schema: whether they are unique, valid and for all rows, and their columns in order.
_INDEXES = """
SELECT c.relname, i.relname, x.indisunique AND x.indisvalid AND x.indpred IS NULL,
    (SELECT array_agg(coalesce(a.attname::text, '?') ORDER BY k.position)
     FROM unnest(x.indkey::int[]) WITH ORDINALITY AS k(number, position)
     LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number)
FROM pg_index x JOIN pg_class c ON c.oid = x.indrelid JOIN pg_class i ON i.oid = x.indexrelid
JOIN pg_namespace s ON s.oid = c.relnamespace WHERE s.nspname = %s
"""
