"""What cannot work is said in one sentence with the remedy, by `check` and at run time, without secrets."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tapeloom import Secret
from tapeloom.errors import BatchRefused, SinkRefused, SinkUnavailable
from tapeloom.events import BY_TYPE, Trade
from tapeloom.plugin import Resume, SinkBatch, SinkRun
from tapeloom_postgres import PostgresSink, Settings, connection
from tapeloom_postgres import schema as schema_module
from tapeloom_testing.services import PostgresServer, TcpProxy, free_port

Read = Callable[..., list[dict[str, Any]]]
TS = 1_700_000_000_000_000_000


def trade(number: int) -> Trade:
    return Trade("v", "BTC/USDT", TS + number, TS, Decimal(1), Decimal(2), "buy", number)


def batch(first: int, count: int = 1) -> SinkBatch:
    return SinkBatch(1, first, [trade(number) for number in range(first, first + count)])


@pytest.fixture
def database(server: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server.dsn, autocommit=True) as opened:
        yield opened


@pytest.fixture
def sink(server: PostgresServer, schema: str) -> Iterator[PostgresSink]:
    made = PostgresSink(Settings(dsn=server.dsn, schema=schema))
    yield made
    made.close()


def fails(sink: PostgresSink, error: type[Exception], *parts: str) -> None:
    """Check that `open` and `check` raise *error* with a sentence that has *parts*."""
    for call in (sink.check, lambda: sink.open(SinkRun("s", 1))):
        with pytest.raises(error) as caught:
            call()
        text = str(caught.value)
        assert [part for part in parts if part not in text] == [], text
        assert text.isprintable()
        assert text.endswith(".")
        sink.close()


# ------------------------------------------------------------------------------------------- connections


def test_a_server_that_is_not_there_is_unavailable() -> None:
    sink = PostgresSink(Settings(dsn=f"postgresql://u@127.0.0.1:{free_port()}/d"))
    fails(sink, SinkUnavailable, "Connection refused", "`dsn`")


def test_a_server_that_does_not_answer_is_unavailable_within_the_timeout(
    server: PostgresServer,
) -> None:
    with TcpProxy(server.host, server.port) as proxy:
        proxy.stall()
        sink = PostgresSink(Settings(dsn=f"{server.dsn_at(proxy.port)}&connect_timeout=2"))
        with pytest.raises(SinkUnavailable, match="timeout"):
            sink.open(SinkRun("s", 1))


@pytest.mark.parametrize("password", [None, Secret("wr0ng")])
def test_a_wrong_password_is_refused_and_not_shown(
    server: PostgresServer, password: Secret | None
) -> None:
    dsn = server.dsn.replace("postgres@", "guarded@")
    fails(PostgresSink(Settings(dsn=dsn, password=password)), SinkRefused, "password")


def test_secrets_are_not_shown_in_errors_and_representations(server: PostgresServer) -> None:
    dsn = Secret("postgresql://postgres:sEcr3t@127.0.0.1/postgres?sslmode=sEcr3t")
    sink = PostgresSink(Settings(dsn=dsn))

    with pytest.raises(SinkRefused) as caught:
        sink.open(SinkRun("s", 1))

    assert "sEcr3t" not in f"{caught.value}{caught.value.__cause__}{sink._settings!r}"


def test_a_database_that_is_not_there_is_refused(server: PostgresServer) -> None:
    sink = PostgresSink(Settings(dsn=server.dsn.replace("/postgres?", "/nowhere?")))
    fails(sink, SinkRefused, "nowhere", "does not exist")


def test_a_server_that_is_too_old_is_refused(
    sink: PostgresSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MIN_VERSION", 99)
    fails(sink, SinkRefused, "the server is PostgreSQL", "expected 99 or newer", "Upgrade")


def test_a_server_that_is_read_only_is_unavailable(server: PostgresServer, schema: str) -> None:
    dsn = f"{server.dsn}&options=-cdefault_transaction_read_only%3Don"
    sink = PostgresSink(Settings(dsn=dsn, schema=schema))
    with pytest.raises(SinkUnavailable, match="target_session_attrs=read-write"):
        sink.open(SinkRun("s", 1))
    sink.close()


def test_commits_are_durable_whatever_the_server_does_by_default(
    server: PostgresServer, schema: str
) -> None:
    dsn = f"{server.dsn}&options=-csynchronous_commit%3Doff"
    sink = PostgresSink(Settings(dsn=dsn, schema=schema))
    sink.open(SinkRun("s", 1))

    assert sink._connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
    sink.close()


# ------------------------------------------------------------------------------------------------ rights


@pytest.fixture
def guarded(server: PostgresServer, schema: str) -> PostgresSink:
    dsn = server.dsn.replace("postgres@", "guarded@")
    return PostgresSink(Settings(dsn=dsn, password=Secret("sEcr3t"), schema=schema))


def test_a_role_without_rights_is_told_which_to_grant_until_it_has_them_all(
    server: PostgresServer, database: psycopg.Connection[Any], guarded: PostgresSink,
    sink: PostgresSink, schema: str, read: Read,
) -> None:  # fmt: skip
    with pytest.raises(SinkRefused, match='GRANT CREATE ON DATABASE "postgres" TO "guarded"'):
        guarded.check()
    with pytest.raises(SinkRefused, match="permission denied for database"):
        guarded.open(SinkRun("s", 1))

    sink.open(SinkRun("s", 1))  # the owner creates the tables
    with pytest.raises(SinkRefused, match="permission denied for schema"):
        guarded.open(SinkRun("s", 1))
    database.execute(f'GRANT USAGE ON SCHEMA "{schema}" TO guarded')
    database.execute(f'GRANT SELECT ON "{schema}"._version TO guarded')
    fails(guarded, SinkRefused, f'GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA "{schema}"')

    database.execute(f'GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA "{schema}" TO guarded')
    guarded.check()
    guarded.open(SinkRun("s", 1))
    guarded.write(batch(1))
    assert len(read(schema)) == 1
    guarded.close()


def test_check_reports_that_temporary_tables_are_not_allowed(
    server: PostgresServer, database: psycopg.Connection[Any], guarded: PostgresSink,
    sink: PostgresSink, schema: str,
) -> None:  # fmt: skip
    sink.open(SinkRun("s", 1))
    database.execute(f'GRANT USAGE ON SCHEMA "{schema}" TO guarded')
    database.execute(f'GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA "{schema}" TO guarded')
    database.execute("REVOKE TEMPORARY ON DATABASE postgres FROM PUBLIC")
    try:
        with pytest.raises(SinkRefused, match="GRANT TEMPORARY ON DATABASE"):
            guarded.check()
        guarded.open(SinkRun("s", 2))
        guarded.write(SinkBatch(2, 1, [trade(1)]))
        guarded.open(SinkRun("s", 3))
        with pytest.raises(SinkRefused, match="permission denied to create temporary tables"):
            guarded.write(SinkBatch(3, 1, [trade(1)]))
    finally:
        database.execute("GRANT TEMPORARY ON DATABASE postgres TO PUBLIC")
        guarded.close()


# ------------------------------------------------------------------------------------- tables that are there


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("ALTER COLUMN price TYPE numeric(20, 2)", ["column 'price' of type numeric(20,2)", "expected numeric"]),
        ("ALTER COLUMN size TYPE double precision", ["column 'size' of type double precision"]),
        ("DROP COLUMN k", ["no column 'k'", "expected integer"]),
        ("ADD COLUMN mine integer NOT NULL", ["'mine' that must not be null", "a default"]),
    ],
)  # fmt: skip
def test_an_incompatible_table_is_refused_with_column_found_expected_and_remedy(
    sink: PostgresSink,
    database: psycopg.Connection[Any],
    schema: str,
    change: str,
    parts: list[str],
) -> None:
    sink.open(SinkRun("s", 1))
    database.execute(f'ALTER TABLE "{schema}".trade {change}')
    fails(sink, SinkRefused, f"{schema}.trade", *parts, "Rename the table", "another `schema`")


@pytest.mark.parametrize(
    ("statements", "part"),
    [
        (["CREATE VIEW {}.trade AS SELECT 1 AS ts"], "has a view, expected a table"),
        (["CREATE TABLE {}.trade (ts timestamptz)"], "column 'ts' of type timestamp with time zone"),
    ],
)  # fmt: skip
def test_what_another_tool_has_made_under_the_name_of_a_table_is_refused(
    sink: PostgresSink, database: psycopg.Connection[Any], schema: str,
    statements: list[str], part: str,
) -> None:  # fmt: skip
    for statement in [f'CREATE SCHEMA "{schema}"', *statements]:
        database.execute(statement.format(f'"{schema}"'))
    fails(sink, SinkRefused, part)


def test_another_index_under_the_name_of_the_unique_one_is_refused(
    sink: PostgresSink, database: psycopg.Connection[Any], schema: str
) -> None:
    sink.open(SinkRun("s", 1))
    database.execute(f'DROP INDEX "{schema}".trade_identity')
    database.execute(f'CREATE INDEX trade_identity ON "{schema}".trade (ts)')
    fails(sink, SinkRefused, "index 'trade_identity' on (ts)", "a unique one on (ts, symbol")


def test_a_lost_index_is_made_again_unless_rows_are_there_twice(
    sink: PostgresSink, database: psycopg.Connection[Any], schema: str
) -> None:
    sink.open(SinkRun("s", 1))
    sink.write(batch(1))
    database.execute(f'DROP INDEX "{schema}".trade_identity')
    assert any("new columns or an index: trade" in line for line in sink.check())
    sink.open(SinkRun("s", 1))
    sink.close()

    database.execute(f'DROP INDEX "{schema}".trade_identity')
    database.execute(f'INSERT INTO "{schema}".trade SELECT * FROM "{schema}".trade')
    with pytest.raises(SinkRefused, match="trade_identity"):
        sink.open(SinkRun("s", 1))


def test_columns_and_indexes_that_a_user_has_added_are_left_alone(
    sink: PostgresSink, database: psycopg.Connection[Any], schema: str, read: Read
) -> None:
    sink.open(SinkRun("s", 1))
    added = f'ALTER TABLE "{schema}".trade ADD COLUMN stored timestamptz NOT NULL DEFAULT now()'
    database.execute(added)
    database.execute(f'CREATE INDEX ON "{schema}".trade (symbol, ts)')
    sink.open(SinkRun("s", 1))
    sink.write(batch(1, 3))
    sink.open(SinkRun("s", 2))
    sink.write(SinkBatch(2, 1, [trade(1), trade(9)]))

    assert [row["stored"] is not None for row in read(schema)] == [True] * 4


def test_a_schema_of_a_newer_version_is_refused(
    sink: PostgresSink, database: psycopg.Connection[Any], schema: str
) -> None:
    sink.open(SinkRun("s", 1))
    database.execute(f'UPDATE "{schema}"._version SET version = 7')
    fails(sink, SinkRefused, "version 7", "expected at most 1", "Upgrade")


def test_an_older_schema_is_migrated_once_and_keeps_what_it_has(
    sink: PostgresSink, database: psycopg.Connection[Any], schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    sink.open(SinkRun("s", 1))
    sink.write(SinkBatch(1, 1, [trade(1)], {"key": "value"}))
    step = ["ALTER TABLE {schema}._cursor ADD COLUMN host text"]
    monkeypatch.setattr(schema_module, "MIGRATIONS", [*schema_module.MIGRATIONS, step])
    assert f"schema {schema!r}: version 1 of 2" in sink.check()

    for _ in range(2):
        assert sink.open(SinkRun("s", 1)) == Resume(1, {"key": "value"})

    assert database.execute(f'SELECT version FROM "{schema}"._version').fetchall() == [(2,)]
    assert database.execute(f'SELECT host FROM "{schema}"._cursor').fetchall() == [(None,)]


def test_check_changes_nothing_and_says_what_would_be_created(
    sink: PostgresSink, database: psycopg.Connection[Any], schema: str
) -> None:
    lines = sink.check()

    version = database.info.server_version // 10_000
    assert lines[0].startswith(f"PostgreSQL {version}")
    assert any(line.startswith(f"schema {schema!r}: will be created") for line in lines)
    found = database.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [schema]).fetchall()
    assert found == []


def test_sinks_that_open_at_once_create_the_tables_once(
    server: PostgresServer, schema: str
) -> None:
    sinks = [PostgresSink(Settings(dsn=server.dsn, schema=schema)) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        opened = list(pool.map(lambda pair: pair[1].open(SinkRun("s", pair[0])), enumerate(sinks)))
    for sink in sinks:
        sink.close()

    assert opened == [Resume()] * 6


# ------------------------------------------------------------------------------------------ while it runs


def test_a_table_that_is_dropped_while_it_runs_is_created_again(
    sink: PostgresSink, database: psycopg.Connection[Any], schema: str, read: Read
) -> None:
    sink.open(SinkRun("s", 1))
    database.execute(f'DROP TABLE "{schema}".trade')
    with pytest.raises(SinkUnavailable, match="does not exist"):
        sink.write(batch(1))

    assert sink.open(SinkRun("s", 1)).last == 0
    sink.write(batch(1))
    assert len(read(schema)) == 1


def test_a_constraint_of_the_user_refuses_the_batch(
    sink: PostgresSink, database: psycopg.Connection[Any], schema: str
) -> None:
    sink.open(SinkRun("s", 1))
    database.execute(f'ALTER TABLE "{schema}".trade ADD CHECK (price > 5)')
    with pytest.raises(BatchRefused, match="check constraint"):
        sink.write(batch(1))


def test_a_connection_that_is_lost_makes_the_sink_unavailable(
    sink: PostgresSink, database: psycopg.Connection[Any]
) -> None:
    sink.open(SinkRun("s", 1))
    database.execute("SELECT pg_terminate_backend(%s)", [sink._connection.info.backend_pid])
    with pytest.raises(SinkUnavailable):
        sink.write(batch(1))
    assert sink.open(SinkRun("s", 1)).last == 0


def test_a_sink_that_is_not_open_is_unavailable(sink: PostgresSink) -> None:
    with pytest.raises(SinkUnavailable, match="not open"):
        sink.write(batch(1))


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("mount") is None,
    reason="a disk that can be filled is mounted, as root",
)
def test_a_full_disk_makes_the_sink_unavailable_until_there_is_space(
    server: PostgresServer, database: psycopg.Connection[Any], schema: str, read: Read
) -> None:
    disk = Path(tempfile.mkdtemp(prefix="tapeloom-disk-"))
    command = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=777", "tmpfs", str(disk)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this system does not allow to mount a disk")
    try:
        shutil.chown(disk, "nobody")
        database.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
        dsn = f"{server.dsn}&options=-cdefault_tablespace%3Dsmall"
        sink = PostgresSink(Settings(dsn=dsn, schema=schema))
        sink.open(SinkRun("s", 1))
        (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free))
        with pytest.raises(SinkUnavailable, match=r"No space left.*Free space on the disk"):
            sink.write(batch(1, 2000))
        sink.close()

        (disk / "filler").unlink()
        assert sink.open(SinkRun("s", 1)).last == 0
        sink.write(batch(1, 2000))
        assert len(read(schema)) == 2000
        sink.close()
    finally:
        database.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')
        database.execute("DROP TABLESPACE IF EXISTS small")
        subprocess.run(["umount", str(disk)], check=False)
        disk.rmdir()


def test_a_table_is_there_for_each_known_type_of_event(
    sink: PostgresSink, database: psycopg.Connection[Any], schema: str
) -> None:
    sink.open(SinkRun("s", 1))
    tables = {
        name
        for (name,) in database.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relkind = 'r'",
            [f'"{schema}"'],
        )
    }

    assert {"trade", "quote", "book", "bar", "ticker", "gap", "reject", "status"} <= tables
    assert {name for name in tables if not name.startswith("_")} <= set(BY_TYPE)
