"""A real server, and how the tests read it back: with psycopg alone, nothing of the sink is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from tapeloom_testing.services import PostgresServer

#: The columns that a sink adds to the fields of an event.
ADDED = ("epoch", "n", "key", "k")


def stored(dsn: str, schema: str, *, full: bool = False) -> list[dict[str, Any]]:
    """Return the rows of all tables of events, in order of their numbers, as fields of the events."""
    found = []
    with psycopg.connect(dsn, row_factory=dict_row) as database:
        tables = database.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relkind = 'r'"
            " AND relname NOT LIKE '\\_%%'",
            [f'"{schema}"'],
        ).fetchall()
        for table in tables:
            name = table["relname"]
            rows = database.execute(f'SELECT * FROM "{schema}"."{name}"')
            found += [{"type": name, **row} for row in rows]
    found.sort(key=lambda row: (row["epoch"], row["n"]))
    return found if full else [as_fields(row) for row in found]


def as_fields(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as the fields of its event: ids that are numbers as such, and no added columns."""
    fields = {name: value for name, value in row.items() if name not in ADDED}
    for name in [name for name in fields if name == "seq" or name.endswith("_seq")]:
        number = fields.pop(name)
        if number is not None:
            fields["id" if name == "seq" else f"{name.removesuffix('_seq')}_id"] = number
    return fields


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """A real PostgreSQL server for all tests; each test has a schema of its own.

    The role `guarded` has to give its password, "sEcr3t", and may do nothing.
    """
    with PostgresServer() as running, psycopg.connect(running.dsn, autocommit=True) as database:
        database.execute("CREATE ROLE guarded LOGIN PASSWORD 'sEcr3t'")
        rules = running.folder / "data" / "pg_hba.conf"
        rules.write_text(f"host all guarded 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        database.execute("SELECT pg_reload_conf()")
        yield running


@pytest.fixture
def read(server: PostgresServer) -> Callable[..., list[dict[str, Any]]]:
    """A function that returns what is stored in a schema."""
    return partial(stored, server.dsn)


@pytest.fixture
def schema(request: pytest.FixtureRequest) -> str:
    """The name of a new schema."""
    return f"s{abs(hash(request.node.nodeid)):x}"
