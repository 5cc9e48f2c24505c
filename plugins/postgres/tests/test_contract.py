"""The contract of sinks, with a real server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tapeloom_testing.contract import SinkContract
from tapeloom_testing.services import PostgresServer, free_port


class TestPostgres(SinkContract):
    sink = "postgres"
    keeps_latest = ("bar",)
    secrets = ("sEcr3t", "wr0ng")

    @pytest.fixture(autouse=True)
    def _server(self, server: PostgresServer, read: Callable[[str], list[dict[str, Any]]]) -> None:
        self.server, self.read = server, read

    def settings(self, folder: Path) -> Mapping[str, Any]:
        return {"dsn": self.server.dsn, "schema": folder.name}

    def stored(self, folder: Path) -> Sequence[Mapping[str, Any]]:
        return self.read(folder.name)

    def failing(self, folder: Path) -> Mapping[str, Mapping[str, Any]]:
        schema = folder.name
        with psycopg.connect(self.server.dsn) as database:
            database.execute(f'CREATE SCHEMA "{schema}"')
            database.execute(f'CREATE TABLE "{schema}".trade (ts timestamptz)')
        guarded = self.server.dsn.replace("postgres@", "guarded@")
        # Settings name a secret, and do not have it; the name is the secret here, so that it is looked for.
        right, wrong = folder / "sEcr3t", folder / "wr0ng"
        right.write_text("sEcr3t")
        wrong.write_text("wr0ng")
        return {
            "the table is incompatible": {"dsn": self.server.dsn, "schema": schema},
            "no server": {
                "dsn": f"postgresql://guarded@127.0.0.1:{free_port()}/x",
                "password": {"file": str(right)},
            },
            "no password": {"dsn": guarded},
            "a wrong password": {"dsn": guarded, "password": {"file": str(wrong)}},
            "no right to create a schema": {
                "dsn": guarded,
                "password": {"file": str(right)},
                "schema": "nobodys",
            },
            "no such database": {"dsn": self.server.dsn.replace("/postgres?", "/nowhere?")},
        }
