"""What is stored while process and server are killed: trades complete, all else named, nothing twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from durability.days import PATIENCE, run_day
from durability.stores import (
    FilesStore,
    NatsStore,
    ParquetStore,
    PostgresStore,
    RedisStore,
    SqliteStore,
    Store,
)
from tapeloom_testing.services import NatsServer, PostgresServer, RedisServer

#: Days for each store; more in `nox -s durability`.
RUNS = int(os.environ.get("TAPELOOM_DURABILITY_RUNS", "1"))


@contextmanager
def sqlite(folder: Path) -> Iterator[Store]:
    yield SqliteStore(folder)


@contextmanager
def files(folder: Path) -> Iterator[Store]:
    yield FilesStore(folder)


@contextmanager
def parquet(folder: Path) -> Iterator[Store]:
    yield ParquetStore(folder)


@contextmanager
def postgres(folder: Path) -> Iterator[Store]:
    with PostgresServer() as server:
        yield PostgresStore(server)


@contextmanager
def redis(folder: Path) -> Iterator[Store]:
    with RedisServer(appendfsync="always") as server:
        yield RedisStore(server)


@contextmanager
def nats(folder: Path) -> Iterator[Store]:
    with NatsServer() as server:
        yield NatsStore(server)


STORES = [sqlite, files, parquet, postgres, redis, nats]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(RUNS))
@pytest.mark.parametrize("store", STORES)
def test_a_store_equals_the_truth_when_process_and_server_are_killed(
    tmp_path: Path, seed: int, store: Callable[[Path], Iterator[Store]]
) -> None:
    spool = "100MB" if (seed + STORES.index(store)) % 2 else ""  # type: ignore[arg-type]
    with store(tmp_path) as tested:  # type: ignore[attr-defined]
        day = anyio.run(lambda: run_day(tested, tmp_path, seed, spool=spool, patience=PATIENCE))

    assert day.problems == []
    assert day.kills >= 1
    assert day.sent > 500
    assert day.stored["quote"] > 10


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sink_that_ignores_its_positions_is_found_out(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, forgetful=True)
    day = anyio.run(lambda: run_day(store, tmp_path, 0, spool="", patience=4))

    assert any("is missing" in problem for problem in day.problems)
