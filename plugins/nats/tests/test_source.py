"""The venue against a real server: what a sink has published comes out again, once and in order."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import nats
import pytest
import tapeloom
from durability import sqlite_store
from durability.stores import SqliteStore
from tapeloom import Event, Gap, Registry, Reject, Status, Trade
from tapeloom.errors import BackendUnsupported, ConfigError, ConnectionFailed
from tapeloom.plugin import SinkBatch, SinkRun
from tapeloom_nats.messages import HEADER
from tapeloom_nats.stream import bucket_of
from tapeloom_testing.services import NatsServer

from .conftest import Bench

ONE = Decimal(1)
SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND
SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT")


def trade(n: int, venue: str = "binance") -> Trade:
    symbol = SYMBOLS[n % len(SYMBOLS)]
    return Trade(venue, symbol, START + n, START + n + 5, Decimal(n + 1), ONE, "buy", n)


def trades(first: int, last: int) -> list[Event]:
    return [trade(n, ("binance", "bybit")[n % 3 == 0]) for n in range(first, last)]


def mixed(count: int) -> list[Event]:
    """Return events of several types and venues, with what concerns a whole feed."""
    events = trades(0, count)
    events[3:3] = [
        Gap("binance", "BTC/USDT", 3, 4, 1, 3, "disconnect", None, "open", "trades", 1, 3),
        Status("binance", "", 5, 5, "connected", "acme"),
        Reject("bybit", "ETH/USDT", 5, 6, "price", "evidence", trade(1, "bybit"), "trades"),
    ]
    return events


class Writer:
    """A sink that stays open, and is fed by a test."""

    def __init__(self, bench: Bench, epoch: int = 1, **settings: Any) -> None:
        self.sink = bench.sink(**settings)
        self.epoch = epoch
        self.next = 1
        self.opened = False

    async def write(self, events: Sequence[Event], size: int = 7) -> None:
        if not self.opened:
            self.opened = True
            await anyio.to_thread.run_sync(self.sink.open, SinkRun("nats", self.epoch))
        for start in range(0, len(events), size):
            batch = SinkBatch(self.epoch, self.next, events[start : start + size])
            await anyio.to_thread.run_sync(self.sink.write, batch)
            self.next += len(batch.events)

    async def close(self) -> None:
        await anyio.to_thread.run_sync(self.sink.close)


def stack_of(bench: Bench, *, sink: dict[str, Any] | None = None, **venue: Any) -> dict[str, Any]:
    feed = {key: venue.pop(key) for key in ("symbols", "channels", "stages") if key in venue}
    settings = {"servers": bench.url, "stream": bench.name, "prefix": bench.name, **venue}
    stack: dict[str, Any] = {"feed": [{"venue": "nats", **feed}], "venue": {"nats": settings}}
    if sink is not None:
        stack["sink"] = [
            {
                "use": "sqlite",
                "max_batch_delay": 0.002,
                "path": str(bench.folder / "store.sqlite"),
                **sink,
            }
        ]
    return stack


def registry_of() -> Registry:
    registry = Registry()
    registry.register(sqlite_store, "sqlite")
    return registry


@asynccontextmanager
async def reading(stack: Any) -> AsyncIterator[Reader]:
    with anyio.fail_after(40):
        async with tapeloom.open(stack, registry=registry_of(), seed=1) as stream:
            yield Reader(stream)


class Reader:
    def __init__(self, stream: tapeloom.Stream) -> None:
        self.stream = stream
        self.consumer = stream.consume()

    async def take(self, count: int) -> list[Event]:
        """Return the next *count* events that are not about the connection of the reader."""
        found: list[Event] = []
        while len(found) < count:
            event = await anext(self.consumer)
            if event.venue != "nats":
                found.append(event)
        return found


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - there is no event to wait for
        await anyio.sleep(0.01)


def stored(bench: Bench) -> list[Event]:
    return [e for e in sqlite_store.read(bench.folder / "store.sqlite") if e.venue != "nats"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# --------------------------------------------------------------------------------- what comes out


@pytest.mark.parametrize("shards", [1, 5])
async def test_events_come_out_in_the_order_in_which_they_were_delivered(
    bench: Bench, shards: int
) -> None:
    events = mixed(300)
    writer = Writer(bench, shards=shards)
    await writer.write(events)
    async with reading(stack_of(bench, start="first")) as reader:
        assert await reader.take(len(events)) == events
        more = trades(1000, 1100)
        await writer.write(more)
        assert await reader.take(len(more)) == more
    await writer.close()


async def test_reading_begins_now_at_a_number_or_at_a_time(bench: Bench) -> None:
    writer = Writer(bench)
    await writer.write(trades(0, 10), size=1)  # messages 2 to 11: the first one says it was opened
    async with reading(stack_of(bench, start=7)) as reader:
        assert await reader.take(5) == trades(5, 10)
    at = datetime.now(UTC).isoformat()
    async with reading(stack_of(bench)) as reader:
        source: Any = reader.stream.plans[0].source
        await until(lambda: source._state is not None)
        await writer.write(trades(20, 22))
        assert await reader.take(2) == trades(20, 22)
    async with reading(stack_of(bench, start=at)) as reader:
        assert await reader.take(2) == trades(20, 22)
    await writer.close()


async def test_a_feed_selects_venues_symbols_channels_and_types(bench: Bench) -> None:
    events = mixed(60)
    writer = Writer(bench, shards=3)
    await writer.write(events)
    chosen = stack_of(
        bench, start="first", venues=["bybit"], types=["trade"], symbols=["ETH/USDT"],
        channels=["trades"],
    )  # fmt: skip
    expected = [
        e for e in events if type(e) is Trade and (e.venue, e.symbol) == ("bybit", "ETH/USDT")
    ]
    async with reading(chosen) as reader:
        assert await reader.take(len(expected)) == expected
    await writer.close()


async def test_a_body_in_several_messages_and_small_queues_lose_nothing(bench: Bench) -> None:
    events = [
        Status("binance", "", START + n, START + n, "notice", "x" * 40_000) for n in range(60)
    ] + trades(0, 500)
    writer = Writer(bench)
    await writer.write(events, size=30)
    stack = stack_of(bench, start="first")
    stack["queue"] = {"size": 3, "policy": "block"}
    async with reading(stack) as reader:
        assert await reader.take(len(events)) == events
    await writer.close()


# ------------------------------------------------------------------------------ where it continues


@pytest.mark.parametrize("spool", [0, "10MB"], ids=["no spool", "spool"])
@pytest.mark.parametrize("shards", [1, 4])
async def test_a_store_has_each_event_once_after_readers_ended_at_any_place(
    bench: Bench, shards: int, spool: Any
) -> None:
    writer = Writer(bench, shards=shards)
    await writer.write(trades(0, 5))
    sink = {"spool": spool, "spool_folder": str(bench.folder / "spool"), "max_batch": 16}
    stack = stack_of(bench, sink=sink, start="first")
    written = 5
    for _ in range(6):
        async with reading(stack) as reader:
            await writer.write(trades(written, written + 90), size=11)
            written += 90
            await reader.take(40)
    async with reading(stack):
        await until(lambda: len(stored(bench)) >= written)
    assert stored(bench) == trades(0, written)
    await writer.close()


async def test_a_stack_without_a_store_keeps_its_cursor_in_the_bucket(bench: Bench) -> None:
    writer = Writer(bench)
    await writer.write(trades(0, 10))
    stack = stack_of(bench, start="first", cursor="reader-1")
    async with reading(stack) as reader:
        assert await reader.take(10) == trades(0, 10)
        source: Any = reader.stream.plans[0].source
        await writer.write(trades(10, 12))
        await reader.take(2)
        source._saved_at = 0.0  # it is due
        await writer.write(trades(12, 13))
        await reader.take(1)
        await until(lambda: source._saved_at > 0.0)
        await anyio.sleep(0.1)
    await writer.write(trades(13, 20))
    async with reading(stack) as reader:
        assert await reader.take(7) == trades(13, 20)
    await writer.close()


async def test_what_a_reader_of_another_version_kept_is_left_out(bench: Bench) -> None:
    writer = Writer(bench)
    await writer.write(trades(0, 10))
    stack = stack_of(bench, start="first", cursor="reader-1")
    async with reading(stack) as reader:
        await reader.take(10)
    client = await nats.connect(bench.url)
    await client.publish(
        f"$KV.{bucket_of(bench.name)}.reader.reader-1.0", b'{"origin":"x","memory":7}'
    )
    await client.flush()
    await client.close()
    await writer.write(trades(10, 20))
    async with reading(stack) as reader:
        assert await reader.take(10) == trades(10, 20)
    await writer.close()


async def test_messages_that_were_deleted_before_they_were_read_are_reported(bench: Bench) -> None:
    writer = Writer(bench)
    await writer.write(trades(0, 20), size=1)
    stack = stack_of(bench, sink={}, start="first")
    async with reading(stack):
        await until(lambda: len(stored(bench)) == 20)
    await writer.write(trades(20, 40), size=1)
    client = await nats.connect(bench.url)
    await client.jetstream().purge_stream(bench.name, seq=32)
    await client.close()
    async with reading(stack):
        await until(lambda: len(stored(bench)) >= 31)

    events = stored(bench)
    gaps = [event for event in events if isinstance(event, Gap)]
    assert [e for e in events if isinstance(e, Trade)] == [*trades(0, 20), *trades(30, 40)]
    assert {gap.venue for gap in gaps} == {"binance", "bybit"}
    assert all(gap.since <= START + 19 and gap.until == START + 30 for gap in gaps)
    assert all(gap.state == "unrecoverable" for gap in gaps)
    await writer.close()


async def test_a_reader_continues_when_the_server_was_restarted(bench: Bench) -> None:
    with NatsServer() as server:
        own = Bench(server.url, bench.name, bench.folder)
        writer = Writer(own)
        await writer.write(trades(0, 10))
        async with reading(stack_of(own, start="first")) as reader:
            assert await reader.take(10) == trades(0, 10)
            await writer.close()
            server.kill()
            server.restart()
            writer = Writer(own, epoch=2)
            await writer.write(trades(10, 30))
            assert await reader.take(20) == trades(10, 30)
            await writer.close()


async def test_a_server_that_lost_its_data_is_reported_with_the_range(bench: Bench) -> None:
    with NatsServer() as server:
        own = Bench(server.url, bench.name, bench.folder)
        writer = Writer(own)
        await writer.write(trades(0, 10))
        async with reading(stack_of(own, start="first")) as reader:
            assert await reader.take(10) == trades(0, 10)
            await writer.close()
            server.kill()
            shutil.rmtree(server.folder / "jetstream")
            server.restart()
            writer = Writer(own, epoch=2)
            await writer.write(trades(15, 20))
            found = await reader.take(7)
            await writer.close()

    gaps = [event for event in found if isinstance(event, Gap)]
    assert found[len(gaps) :] == trades(15, 20)
    assert sorted((gap.venue, gap.until - START) for gap in gaps) == [
        ("binance", 15),
        ("bybit", 15),
    ]
    assert all((gap.since, gap.cause) == (START + 9, "deleted") for gap in gaps)


# ------------------------------------------------------------------------------- what is refused


async def test_a_message_of_a_newer_version_is_refused_with_the_remedy(bench: Bench) -> None:
    writer = Writer(bench)
    await writer.write(trades(0, 3))
    await writer.close()
    client = await nats.connect(bench.url)
    header = {HEADER: '{"version":2,"sink":"nats","epoch":1,"first":1,"last":1,"count":1}'}
    await client.jetstream().publish(f"{bench.name}.nats.0", b"", headers=header)
    await client.close()

    with pytest.raises(ConnectionFailed, match=r"version 2; .* knows 1\. Update tapeloom-nats"):
        async with reading(stack_of(bench, start="first")) as reader:
            await reader.take(4)


async def test_a_stream_that_is_not_there_yet_is_waited_for(bench: Bench) -> None:
    async with reading(stack_of(bench, start="first")) as reader:
        event = await anext(reader.consumer)
        assert isinstance(event, Status)
        assert "there is no stream" in event.detail
        writer = Writer(bench)
        await writer.write(trades(0, 3))
        assert await reader.take(3) == trades(0, 3)
        await writer.close()


def test_on_trio_it_is_refused_with_a_sentence(bench: Bench) -> None:
    async def run() -> None:
        async with tapeloom.open(stack_of(bench)) as stream:
            await stream.run()

    with pytest.raises(BackendUnsupported, match="asyncio"):
        anyio.run(run, backend="trio")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"start": "yesterday"},
            "start must be 'now', 'first', the number of a message, or a time",
        ),
        ({"start": 0}, "from 1 on"),
        ({"types": "trades"}, "'trades' is not an event type"),
        ({"shards": 4}, r"this key belongs to \[\[sink\]\]"),
    ],
)
def test_wrong_settings_of_the_venue_are_mistakes(
    bench: Bench, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tapeloom.open(stack_of(bench, **settings))


def test_keys_of_the_venue_in_a_sink_are_mistakes(bench: Bench) -> None:
    stack = stack_of(bench)
    stack["sink"] = [{"use": "nats", "start": "first"}]
    with pytest.raises(ConfigError, match=r"belongs to \[venue\.nats\]"):
        tapeloom.open(stack)


@pytest.mark.slow
@pytest.mark.parametrize("shards", [4])
async def test_a_store_has_each_event_once_though_its_reader_is_killed_again_and_again(
    bench: Bench, shards: int
) -> None:
    store = SqliteStore(bench.folder)
    # The last reader runs in this process, whose current folder is another one.
    table = store.table().replace("store.sqlite", str(bench.folder / "store.sqlite"))
    file = bench.folder / "reader.toml"
    file.write_text(
        f'[[feed]]\nvenue = "nats"\n[venue.nats]\nservers = "{bench.url}"\nstream = "{bench.name}"\n'
        f'prefix = "{bench.name}"\nstart = "first"\n[[sink]]\n{table}\nmax_batch = 32\n',
        "utf-8",
    )
    chance = random.Random(shards)
    writer = Writer(bench, shards=shards)
    written = 0
    for _ in range(2):
        before = count(bench)
        process = await anyio.to_thread.run_sync(start, bench.folder, store.environment)
        try:
            await writer.write(trades(written, written + 300), size=chance.randrange(3, 30))
            written += 300
            goal = before + chance.randrange(1, written - before)
            with anyio.fail_after(60):
                while count(bench) < goal:  # noqa: ASYNC110 - there is no event to wait for
                    await anyio.sleep(0.002)
        finally:
            process.kill()
            await anyio.to_thread.run_sync(process.wait)
    with anyio.fail_after(60):
        async with reading(file):
            await until(lambda: count(bench) >= written)
    assert stored(bench) == trades(0, written)
    await writer.close()


def start(folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a process that runs the stack `reader.toml`."""
    command = [sys.executable, "-m", "tapeloom", "run", "reader.toml"]
    with (folder / "reader.log").open("ab") as log:
        return subprocess.Popen(
            command, cwd=folder, env={**os.environ, **environment}, stdout=log, stderr=log
        )


def count(bench: Bench) -> int:
    """Return how many trades are stored."""
    file = bench.folder / "store.sqlite"
    if not file.exists():
        return 0
    with closing(sqlite3.connect(file)) as database:
        try:
            query = "SELECT count(*) FROM event WHERE line LIKE '%\"trade\"%'"
            return int(database.execute(query).fetchone()[0])
        except sqlite3.OperationalError:  # the table is not there yet
            return 0
