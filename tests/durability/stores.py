"""A store of each sink, read back by a client that is not the sink's."""

from __future__ import annotations

import asyncio
import random
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import anyio
import anyio.to_thread
import attrs
import duckdb
import nats
import nats.js.errors
import psycopg
import redis
from tapeloom.events import Event, Gap, Quote, Trade, decode
from tapeloom_nats.messages import MessageReader
from tapeloom_testing.services import NatsServer, PostgresServer, RedisServer
from tapeloom_testing.services.service import Service

from . import sqlite_store


class Store(Protocol):
    """A store that a test fills."""

    #: Variables of the environment of the processes, besides those of the test.
    environment: Mapping[str, str]

    def table(self) -> str:
        """Return the keys of its `[[sink]]`, as TOML."""
        ...

    def read(self) -> Sequence[Event]:
        """Return the events in the store."""
        ...

    async def around_kill(self, chance: random.Random, process: subprocess.Popen[bytes]) -> None:
        """Kill the process, and do to the server, if there is one, what a bad day does."""
        ...


class FileStore:
    """A store without a server: only the process is killed."""

    environment: Mapping[str, str] = {}

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def around_kill(self, chance: random.Random, process: subprocess.Popen[bytes]) -> None:
        """Kill the process."""
        process.kill()
        process.wait()


class SqliteStore(FileStore):
    """The sink of `sqlite_store`, which is installed for the processes that a test starts."""

    def __init__(self, folder: Path, *, forgetful: bool = False) -> None:
        super().__init__(folder)
        self._forgetful = forgetful
        info = folder / "site" / "sqlite_store-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sqlite-store\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[tapeloom.plugins]\nsqlite = sqlite_store\n")
        source = Path(sqlite_store.__file__).read_text(encoding="utf-8")
        (folder / "site" / "sqlite_store.py").write_text(source, encoding="utf-8")

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the processes."""
        return {"PYTHONPATH": str(self.folder / "site")}

    def table(self) -> str:
        """Return the keys of the sink's table."""
        forgetful = str(self._forgetful).lower()
        return f'use = "sqlite"\npath = "store.sqlite"\nforgetful = {forgetful}'

    def read(self) -> Sequence[Event]:
        """Return the events in the file."""
        return sqlite_store.read(self.folder / "store.sqlite")


class FilesStore(FileStore):
    """JSON lines, read back line by line."""

    def table(self) -> str:
        """Return the keys of the sink's table."""
        return 'use = "files"\npath = "events"\nrotate_every = "2s"'

    def read(self) -> Sequence[Event]:
        """Return the events in all files; a line that is just being written is left out."""
        while True:
            events: list[Event] = []
            try:
                for file in sorted((self.folder / "events").glob("*.jsonl*")):
                    *lines, _ = file.read_text(encoding="utf-8").split("\n")
                    events += map(decode, lines)
            except FileNotFoundError:  # it got its final name since it was listed
                continue
            return events


class ParquetStore(FileStore):
    """Parquet files, read back with DuckDB."""

    def table(self) -> str:
        """Return the keys of the sink's table."""
        return 'use = "parquet"\npath = "data"\nmax_age = "1s"'

    def read(self) -> Sequence[Event]:
        """Return the trades, quotes and gaps in the files, in the order of their runs."""
        one = Decimal(1)
        rows: list[tuple[int, int, Event]] = [
            (epoch, n, Trade(venue, symbol, ts, ts, one, one, None, int(number)))
            for epoch, n, venue, symbol, ts, number in self._select("trade", "id")
        ]
        rows += [
            (epoch, n, Quote(venue, symbol, ts, ts, one, one, one, one, sequence))
            for epoch, n, venue, symbol, ts, sequence in self._select("quote", "sequence")
        ]
        columns = "epoch_ns(since), epoch_ns(until), cause, state, channel, after_id"
        rows += [
            (epoch, n, Gap(venue, symbol, ts, ts, since, until, cause, None, state, channel, after))
            for epoch, n, venue, symbol, ts, since, until, cause, state, channel, after in (
                self._select("gap", columns)
            )
        ]
        return [event for _, _, event in sorted(rows, key=lambda row: row[:2])]

    def _select(self, name: str, columns: str) -> list[Any]:
        folder = self.folder / "data" / f"type={name}"
        if not any(folder.rglob("*.parquet")):
            return []
        files = f"read_parquet('{folder}/**/*.parquet', hive_partitioning = true)"
        chosen = f"epoch, n, venue, symbol, epoch_ns(ts), {columns}"
        return duckdb.sql(f"SELECT {chosen} FROM {files} ORDER BY epoch, n").fetchall()


class ServerStore:
    """A store with a server of its own, which is killed with the process at times."""

    environment: Mapping[str, str] = {}

    def __init__(self, server: Service) -> None:
        self.server = server

    async def around_kill(self, chance: random.Random, process: subprocess.Popen[bytes]) -> None:
        """Kill the process, and in one of three times the server before it."""
        server_too = chance.random() < 1 / 3
        if server_too:
            self.server.kill()
            await anyio.sleep(chance.uniform(0, 0.5))
        process.kill()
        process.wait()
        if server_too:
            await anyio.to_thread.run_sync(self.server.restart)


class PostgresStore(ServerStore):
    """Tables in PostgreSQL, read back with psycopg."""

    server: PostgresServer

    def table(self) -> str:
        """Return the keys of the sink's table."""
        return f'use = "postgres"\ndsn = "{self.server.dsn}"'

    def read(self) -> Sequence[Event]:
        """Return the trades, quotes and gaps in the tables, in the order of their runs."""
        events: list[tuple[int, int, Event]] = []
        try:
            with psycopg.connect(self.server.dsn) as connection:
                for cls in (Trade, Quote, Gap):
                    events += _rows(connection, cls)
        except psycopg.errors.UndefinedTable:  # nothing was stored yet
            return []
        return [event for _, _, event in sorted(events, key=lambda row: row[:2])]


class RedisStore(ServerStore):
    """Streams of Redis, read back with redis-py."""

    server: RedisServer

    def table(self) -> str:
        """Return the keys of the sink's table."""
        return f'use = "redis"\nurl = "{self.server.url}"'

    def read(self) -> Sequence[Event]:
        """Return the trades, quotes and gaps in the streams, in the order of their runs."""
        found: list[tuple[list[int], Event]] = []
        with redis.Redis.from_url(self.server.url) as client:
            for name in ("trade", "quote", "gap"):
                for number, fields in client.xrange(f"tapeloom:{name}"):
                    found.append(([*map(int, number.split(b"-"))], decode(fields[b"event"])))
        return [event for _, event in sorted(found, key=lambda item: item[0])]


class NatsStore(ServerStore):
    """A stream of JetStream, read back with nats-py and the reader of the package."""

    server: NatsServer

    def table(self) -> str:
        """Return the keys of the sink's table."""
        return f'use = "nats"\nservers = "{self.server.url}"'

    def read(self) -> Sequence[Event]:
        """Return all events in the stream."""
        with ThreadPoolExecutor(1) as thread:  # nats-py needs a loop of asyncio of its own
            return thread.submit(asyncio.run, self._read()).result()

    async def _read(self) -> list[Event]:
        client = await nats.connect(self.server.url)
        events: list[Event] = []
        try:
            jetstream, reader = client.jetstream(), MessageReader()
            info = await jetstream.stream_info("tapeloom")
            # A stream that never had a message says that its first one is 0.
            for number in range(max(1, info.state.first_seq), info.state.last_seq + 1):
                message = await jetstream.get_msg("tapeloom", number)
                subject, data = message.subject or "", message.data or b""
                events += [event for _, event in reader.read(subject, message.headers, data)]
        except nats.js.errors.NotFoundError:  # nothing was stored yet
            pass
        finally:
            await client.close()
        return events


def _rows(
    connection: psycopg.Connection[Any], cls: type[Trade | Quote | Gap]
) -> list[tuple[int, int, Event]]:
    names = [field.name for field in attrs.fields(cls)]
    columns = ", ".join(f'"{name}"' for name in names)
    rows = connection.execute(f'SELECT epoch, n, {columns} FROM tapeloom."{cls.type}"')
    found: list[tuple[int, int, Event]] = []
    for epoch, n, *values in rows:
        fields = dict(zip(names, values, strict=True))
        for name in ("id", "after_id", "before_id"):
            if name in fields and str(fields[name]).isdecimal():
                fields[name] = int(fields[name])
        found.append((epoch, n, cls(**fields)))
    return found
