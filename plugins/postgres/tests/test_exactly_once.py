"""Each event is stored once: with lost answers, killed servers, twins, reused ids, and repeated data."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
import structlog
from attrs import evolve
from tapeloom.errors import SinkUnavailable
from tapeloom.events import Bar, Event, Gap, Quote, Trade
from tapeloom.harness import SystemClock, write_all
from tapeloom.plugin import SinkBatch, SinkRun
from tapeloom_postgres import PostgresSink, Settings
from tapeloom_testing.contract.sinks.events import sink_events
from tapeloom_testing.contract.sinks.rows import difference, to_row
from tapeloom_testing.services import PostgresDialogue, PostgresServer, TcpProxy, is_commit

Read = Callable[..., list[dict[str, Any]]]
RUNS = int(os.environ.get("TAPELOOM_DURABILITY_RUNS", "10"))
TS = 1_700_000_000_000_000_000


class HastyClock(SystemClock):
    """The system's clock with short pauses, so that a server that is back is found at once."""

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(min(seconds, 0.02))


def write(
    dsn: str,
    schema: str,
    events: Sequence[Event],
    folder: Path,
    *,
    epoch: int = 1,
    sizes: Sequence[int] = (5, 1, 32),
    on_acknowledged: Callable[[int], None] | None = None,
) -> Counter[str]:
    sink = PostgresSink(Settings(dsn=dsn, schema=schema))

    async def run() -> Counter[str]:
        return await write_all(
            sink, events, epoch=epoch, folder=folder, sizes=sizes, clock=HastyClock(),
            on_acknowledged=on_acknowledged,
        )  # fmt: skip

    counters = anyio.run(run)
    assert not list(folder.glob("*.set-aside.jsonl"))
    return counters


def numbers(rows: list[dict[str, Any]]) -> list[int]:
    return [row["n"] for row in rows]


def assert_same(events: Sequence[Event], rows: list[dict[str, Any]]) -> None:
    """Check that the rows are the events, each once, in their order, with all fields."""
    expected, found = [to_row(event) for event in events], [to_row(row) for row in rows]
    assert difference(expected, found, "exactly_once") == ""


def without_bars(count: int, seed: int = 1) -> list[Event]:
    """Return events that are all kept: of a bar, the table keeps the newest only."""
    return [event for event in sink_events(count, seed=seed) if type(event) is not Bar]


def trade(
    ts: int = TS, price: str = "1.5", id: int | str = "", origin: Any = "live", recv: int = TS
) -> Trade:
    return Trade("v", "BTC/USDT", ts, recv, Decimal(price), Decimal(2), "buy", id, "trades", origin)


@pytest.fixture
def proxy(server: PostgresServer) -> Iterator[TcpProxy]:
    with TcpProxy(server.host, server.port, PostgresDialogue) as running:
        yield running


# --------------------------------------------------------------------------- lost answers, killed servers


@pytest.mark.parametrize("nth", range(1, 9))
def test_nothing_is_stored_twice_if_the_answer_to_any_commit_is_lost(
    server: PostgresServer, proxy: TcpProxy, schema: str, read: Read, tmp_path: Path, nth: int
) -> None:
    events = without_bars(70)
    proxy.drop_answers_after(is_commit, nth=nth)

    write(server.dsn_at(proxy.port), schema, events, tmp_path, sizes=(5, 1, 12))

    assert proxy.eaten == 1
    assert_same(events, read(schema))


def test_nothing_is_stored_twice_if_the_answer_to_every_second_commit_is_lost(
    server: PostgresServer, proxy: TcpProxy, schema: str, read: Read, tmp_path: Path
) -> None:
    events = without_bars(300)
    losing = [0]

    def lose_second(request: bytes) -> bool:
        losing[0] += is_commit(request)
        return is_commit(request) and losing[0] % 2 == 0

    proxy.drop_answers_after(lose_second, every=True)

    counters = write(server.dsn_at(proxy.port), schema, events, tmp_path)

    assert proxy.eaten > 10
    assert counters["sink_retries"] >= proxy.eaten // 2
    assert_same(events, read(schema))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(RUNS))
def test_nothing_is_lost_or_stored_twice_if_the_server_process_is_killed(
    server: PostgresServer, schema: str, read: Read, tmp_path: Path, seed: int
) -> None:
    events = without_bars(400, seed)
    rng = random.Random(seed)
    at, delay = rng.randrange(1, 250), rng.random() * 0.01
    timers: list[threading.Timer] = []

    def kill_soon(number: int) -> None:
        if number >= at and not timers:
            timers.append(threading.Timer(delay, server.restart))
            timers[0].start()

    write(server.dsn, schema, events, tmp_path, on_acknowledged=kill_soon)
    timers[0].join()

    assert_same(events, read(schema))


def test_a_transaction_that_is_still_under_way_is_waited_for_and_not_repeated(
    server: PostgresServer, schema: str, read: Read
) -> None:
    twins = [trade(), trade()]
    slow, fast = (PostgresSink(Settings(dsn=server.dsn, schema=schema)) for _ in range(2))
    assert slow.open(SinkRun("s", 1)).last == 0
    assert fast.open(SinkRun("s", 1)).last == 0
    slow._connection.execute("BEGIN")  # what `write` does then is not committed by it
    slow.write(SinkBatch(1, 1, twins))
    failed: list[BaseException] = []

    def repeat() -> None:
        try:
            fast.write(SinkBatch(1, 1, twins))
        except SinkUnavailable as error:
            failed.append(error)

    thread = threading.Thread(target=repeat)
    thread.start()
    with psycopg.connect(server.dsn, autocommit=True) as database:
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
        )
        while not database.execute(waiting, [f"%{schema}%"]).fetchone()[0]:
            assert thread.is_alive()
    slow._connection.execute("COMMIT")
    thread.join()

    assert "is not 0 any more" in str(failed[0])
    assert fast.open(SinkRun("s", 1)).last == 2
    assert len(read(schema)) == 2
    slow.close()
    fast.close()


# ----------------------------------------------------------------- twins, reused ids, late and repeated events


def test_equal_twins_are_all_stored_wherever_batches_and_connections_end(
    server: PostgresServer, schema: str, read: Read, tmp_path: Path
) -> None:
    quote = Quote("v", "BTC/USDT", TS, TS, Decimal(1), Decimal(1), None, None, 7)
    events = [trade(), quote, trade(), trade(), quote, quote, trade()]

    for count in range(1, len(events) + 1):  # a new connection for each event
        write(server.dsn, schema, events[:count], tmp_path, sizes=(1,))

    rows = read(schema, full=True)
    assert numbers(rows) == [1, 2, 3, 4, 5, 6, 7]
    assert [row["k"] for row in rows] == [0, 0, 1, 2, 1, 2, 3]


def test_a_late_twin_is_told_from_one_that_was_stored_long_before(
    server: PostgresServer, schema: str, read: Read, tmp_path: Path
) -> None:
    events = [trade(), *(trade(TS + n) for n in range(1, 200)), trade()]

    write(server.dsn, schema, events[:-1], tmp_path)
    write(server.dsn, schema, events, tmp_path)

    assert [row["k"] for row in read(schema, full=True) if row["ts"] == TS] == [0, 1]


def test_an_id_that_is_used_again_at_another_time_is_another_trade(
    server: PostgresServer, schema: str, read: Read, tmp_path: Path
) -> None:
    write(server.dsn, schema, [trade(id=7), trade(TS + 1, id=7), trade(TS - 1, id=7)], tmp_path)

    assert numbers(read(schema, full=True)) == [1, 2, 3]


@pytest.mark.parametrize("reopened", [False, True])
def test_a_backfill_of_what_is_stored_adds_only_what_is_missing(
    server: PostgresServer, schema: str, read: Read, tmp_path: Path, reopened: bool
) -> None:
    live = [trade(id=1), trade(TS, "1.50"), trade(TS + 5, id="x")]
    past = [trade(id=1), trade(TS, "1.5"), trade(TS, "1.500"), trade(TS + 2, id=2), live[2]]
    backfill = [evolve(event, origin="backfill", recv=TS + 9) for event in past]

    if reopened:
        write(server.dsn, schema, live, tmp_path)
    write(server.dsn, schema, [*live, *backfill], tmp_path)  # in the same run
    write(server.dsn, schema, backfill, tmp_path, epoch=2)  # and after a restart

    # The second trade without id at TS was missed live; the first one is not stored again.
    assert [(row["n"], row["epoch"]) for row in read(schema, full=True)] == [
        (1, 1), (2, 1), (3, 1), (6, 1), (7, 1),
    ]  # fmt: skip


def test_replaying_a_tape_twice_changes_nothing_and_live_data_is_not_repeated(
    server: PostgresServer, schema: str, read: Read, tmp_path: Path
) -> None:
    events = [event for event in sink_events(300) if event.type not in ("gap", "reject", "status")]
    write(server.dsn, schema, events, tmp_path, epoch=5)
    live = read(schema, full=True)

    write(server.dsn, schema, events, tmp_path, epoch=99, sizes=(7, 64))
    replayed = read(schema, full=True)
    write(server.dsn, schema, events, tmp_path, epoch=99)

    assert replayed == live
    assert read(schema, full=True) == live


def test_facts_of_a_run_are_stored_once_a_run(
    server: PostgresServer, schema: str, read: Read, tmp_path: Path
) -> None:
    gap = Gap("v", "BTC/USDT", TS, TS, TS - 9, TS, "sequence", 3, channel="trades")
    for epoch in (1, 2, 1):
        write(server.dsn, schema, [gap, gap], tmp_path, epoch=epoch)

    assert [(row["epoch"], row["n"]) for row in read(schema, full=True)] == [
        (1, 1), (1, 2), (2, 1), (2, 2),
    ]  # fmt: skip


def test_another_content_under_a_stored_key_goes_to_the_table_of_conflicts(
    server: PostgresServer, schema: str, read: Read, tmp_path: Path
) -> None:
    write(server.dsn, schema, [trade(id=1), trade(id=2)], tmp_path)
    repeated = [trade(id=1), trade(price="9", id=2), trade(id=3), trade(price="8", id=3)]
    with structlog.testing.capture_logs() as logs:
        write(server.dsn, schema, repeated, tmp_path, epoch=2, sizes=(4,))

    with psycopg.connect(server.dsn) as database:
        found = database.execute(
            f"SELECT n, stored->>'price', received->>'price' FROM \"{schema}\"._conflict ORDER BY n"
        ).fetchall()
    assert found == [(2, "1.5", "9"), (4, "1.5", "8")]
    assert [(log["event"], log["events"], log["first"]) for log in logs] == [
        ("sink_conflict", 2, 2)
    ]
    assert len(read(schema)) == 3


def bar(close: int, recv: int, *, closed: bool = True, complete: bool = True) -> Bar:
    price = Decimal(close)
    return Bar(
        "v", "BTC/USDT", TS, TS + recv, "1m", price, price, price, price, price, None, None, None, 1,
        closed, complete,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("bars", "expected"),
    [
        ([(1, bar(1, 1, closed=False)), (1, bar(2, 2, closed=False))], 2),
        ([(1, bar(1, 1)), (1, bar(2, 1))], 2),  # revised within one read
        ([(1, bar(1, 1)), (1, bar(2, 2, closed=False))], 1),
        ([(1, bar(1, 1)), (1, bar(2, 2, complete=False))], 1),
        ([(1, bar(1, 5)), (2, bar(2, 4))], 1),  # an old tape is replayed
        ([(1, bar(1, 5)), (2, bar(2, 6))], 2),
        ([(1, bar(1, 5, complete=False)), (2, bar(2, 4))], 2),
    ],
)
@pytest.mark.parametrize("size", [1, 9])
def test_of_a_bar_the_best_one_stays(
    server: PostgresServer, schema: str, read: Read, tmp_path: Path,
    bars: list[tuple[int, Bar]], expected: int, size: int,
) -> None:  # fmt: skip
    for epoch in sorted({epoch for epoch, _ in bars}):
        events = [event for of_epoch, event in bars if of_epoch == epoch]
        write(server.dsn, schema, events, tmp_path, epoch=epoch, sizes=(size,))

    assert [row["close"] for row in read(schema)] == [expected]
