"""Sinks of a stream: numbers, retries, refused events, the spool, and the continuation after a restart.

The store is a SQLite file, which a second connection reads back.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import attrs
import pytest
import tapeloom
from structlog.testing import capture_logs
from tapeloom import Event, FeedSpec, Gap, QueueSpec, Registry, SinkSpec, Stack, Status, Trade
from tapeloom._compose.plan import SinkPlan
from tapeloom.errors import BatchRefused, ConfigError, SinkRefused, SinkUnavailable
from tapeloom.events import Reject, decode, encode
from tapeloom.hooks import hookimpl
from tapeloom.plugin import Endpoint, Guarantee, Resume, SinkBatch, SinkRun
from tapeloom_testing import FakeVenue, FakeWire, LoopClock, WireEnd, virtual_backend

SECOND = 1_000_000_000
#: Whether the store is down for 5 minutes instead of 20 seconds, as in `nox -s durability`.
LONG = bool(os.environ.get("TAPELOOM_DURABILITY_RUNS"))
START = 1_700_000_000 * SECOND
TABLES = """
CREATE TABLE IF NOT EXISTS event (epoch INTEGER, n INTEGER, line TEXT);
CREATE TABLE IF NOT EXISTS cursor (sink TEXT, epoch INTEGER, n INTEGER, PRIMARY KEY (sink, epoch));
CREATE TABLE IF NOT EXISTS position (sink TEXT, key TEXT, value TEXT, PRIMARY KEY (sink, key));
"""


@attrs.define
class Faults:
    """What goes wrong with a store, as a test sets it."""

    refuse_open: list[Exception] = attrs.field(factory=list)  #: raised by the next calls of `open`
    lose_answers: int = 0  #: so many writes are stored, and their answer is lost
    refuse: Callable[[Event], bool] = lambda event: False  #: which events the store refuses
    raise_in_write: list[Exception] = attrs.field(factory=list)
    ignore_cursor: bool = False
    opened: int = 0
    threads: set[int] = attrs.field(factory=set)
    running: int = 0
    most_running: int = 0


class SqliteSink:
    """Stores events in a SQLite file, each once."""

    guarantee: Guarantee = "exactly_once"

    def __init__(self, path: Path, faults: Faults) -> None:
        self._path = path
        self._faults = faults
        self._database: sqlite3.Connection | None = None
        self._run: SinkRun | None = None

    def open(self, run: SinkRun) -> Resume:
        self._faults.opened += 1
        if self._faults.refuse_open:
            raise self._faults.refuse_open.pop(0)
        self._run = run
        database = self._database = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False
        )
        database.executescript(TABLES)
        find = "SELECT n FROM cursor WHERE sink = ? AND epoch = ?"
        row = database.execute(find, [run.sink, run.epoch]).fetchone()
        if self._faults.ignore_cursor:
            return Resume()
        positions = database.execute("SELECT key, value FROM position WHERE sink = ?", [run.sink])
        return Resume(row[0] if row else 0, dict(positions))

    def write(self, batch: SinkBatch) -> None:
        faults = self._faults
        faults.running += 1
        faults.most_running = max(faults.most_running, faults.running)
        faults.threads.add(threading.get_ident())
        try:
            self._write(batch)
        finally:
            faults.running -= 1

    def _write(self, batch: SinkBatch) -> None:
        assert self._database is not None
        assert self._run is not None
        if self._faults.raise_in_write:
            raise self._faults.raise_in_write.pop(0)
        if any(self._faults.refuse(event) for event in batch.events):
            raise BatchRefused("this store takes no such event. Leave it out.")
        rows = [
            (batch.epoch, batch.first + index, encode(event))
            for index, event in enumerate(batch.events)
        ]
        database, sink = self._database, self._run.sink
        database.execute("BEGIN")
        database.executemany("INSERT INTO event VALUES (?, ?, ?)", rows)
        database.execute(
            "INSERT OR REPLACE INTO cursor VALUES (?, ?, ?)", [sink, batch.epoch, batch.last]
        )
        database.executemany(
            "INSERT OR REPLACE INTO position VALUES (?, ?, ?)",
            [(sink, key, value) for key, value in batch.positions.items()],
        )
        database.execute("COMMIT")
        if self._faults.lose_answers:
            self._faults.lose_answers -= 1
            raise SinkUnavailable("the connection was closed before the answer came.")

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


class CheckpointSink(SqliteSink):
    """Stores positions with every third batch only, and reads back the events after them."""

    has_checkpoints = True
    _count = 0

    def open(self, run: SinkRun) -> Resume:
        resume = super().open(run)
        assert self._database is not None
        self._database.execute("CREATE TABLE IF NOT EXISTS saved (row INTEGER)")
        after = "SELECT line FROM event WHERE rowid > (SELECT coalesce(max(row), 0) FROM saved) ORDER BY rowid"
        events = [[decode(line)] for (line,) in self._database.execute(after)]
        return attrs.evolve(resume, events=events)

    def _write(self, batch: SinkBatch) -> None:
        self._count += 1
        if is_due := self._count % 3 == 2:
            batch = attrs.evolve(batch, positions={**batch.positions, **batch.checkpoint()})
        super()._write(batch)
        if is_due:
            assert self._database is not None
            self._database.execute("INSERT INTO saved SELECT max(rowid) FROM event")


@attrs.define
class Store:
    """The file of a store, its faults, and what is in it."""

    path: Path
    faults: Faults = attrs.field(factory=Faults)
    sink: type[SqliteSink] = SqliteSink

    def rows(self) -> list[tuple[int, int, Event]]:
        if not self.path.exists():
            return []
        with closing(sqlite3.connect(self.path)) as database:
            try:
                rows = database.execute("SELECT epoch, n, line FROM event ORDER BY rowid")
                found = rows.fetchall()
            except sqlite3.OperationalError:  # the sink has yet to create the table
                return []
        return [(epoch, n, decode(line)) for epoch, n, line in found]

    def last(self) -> int:
        """Return the id of the trade that was written last, -1 if there is none."""
        if not self.path.exists():
            return -1
        with closing(sqlite3.connect(self.path)) as database:
            last = (
                "SELECT line FROM event WHERE line LIKE '%\"trade\"%' ORDER BY rowid DESC LIMIT 1"
            )
            row = database.execute(last).fetchone()
        return int(decode(row[0]).id) if row else -1  # type: ignore[attr-defined]

    def events(self) -> list[Event]:
        return [event for _, _, event in self.rows()]

    def trades(self) -> list[int | str]:
        return [event.id for event in self.events() if isinstance(event, Trade)]

    def gaps(self) -> list[Gap]:
        return [event for event in self.events() if isinstance(event, Gap)]


class StorePlugin:
    def __init__(self, store: Store) -> None:
        self.store = store

    @hookimpl
    def sink(self, settings: Any) -> SqliteSink:
        return self.store.sink(self.store.path, self.store.faults)


@pytest.fixture
def store(registry: Registry, tmp_path: Path, request: pytest.FixtureRequest) -> Store:
    store = Store(tmp_path / "store.sqlite", sink=getattr(request, "param", SqliteSink))
    registry.register(StorePlugin(store), "store")
    return store


def trade_row(n: int, symbol: str = "BTCUSD") -> dict[str, Any]:
    return {"s": symbol, "t": START + n * SECOND, "p": "1.50", "q": "2", "i": n}


def sending(*reads: Sequence[int]) -> FakeWire:
    """Return a wire that acknowledges, then sends these trades, one read per list."""

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))
        for numbers in reads:
            end.push(*(json.dumps(trade_row(n)) for n in numbers))
        await anyio.sleep_forever()

    return FakeWire(answer)


def spec(tmp_path: Path, **more: Any) -> SinkSpec:
    return SinkSpec("store", spool_folder=str(tmp_path / "spool"), max_batch_delay=0.01, **more)


async def run_until(
    registry: Registry,
    wire: FakeWire,
    sinks: Sequence[SinkSpec],
    condition: Callable[[], bool],
    *,
    rest: str = "",
    channels: Sequence[str] = ("trades",),
) -> tapeloom.Stream:
    """Run a stream with these sinks until *condition*, then leave it."""
    feed = FeedSpec("acme", ["BTC/USD"], channels)
    venues = {"acme": {"rest": rest, "past_trades": bool(rest)}}
    stack = Stack(feeds=(feed,), sinks=tuple(sinks), venues=venues)
    with anyio.fail_after(30):
        async with (
            tapeloom.open(stack, registry=registry, dial=wire.dial, seed=1) as stream,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(stream.run)
            while not condition():  # noqa: ASYNC110 - there is no event to wait for
                await anyio.sleep(0.005)
            stream.stop()
    return stream


# ------------------------------------------------------------------------------- numbers and threads


@pytest.mark.parametrize(
    ("of_stack", "of_sink", "expected"),
    [(None, None, 0.05), (None, 0.0, 0.0), (0.02, 0.0, 0.02), (0.0, 0.3, 0.0)],
)
def test_events_are_collected_for_as_long_as_the_stack_says_or_else_the_sink(
    store: Store, of_stack: float | None, of_sink: float | None, expected: float
) -> None:
    sink: Any = SqliteSink(store.path, store.faults)
    if of_sink is not None:
        sink.max_batch_delay = of_sink

    plan = SinkPlan(SinkSpec("store", max_batch_delay=of_stack), sink)

    assert plan.max_batch_delay == expected


async def test_events_are_numbered_from_1_in_one_run_and_written_in_worker_threads_one_at_a_time(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    wire = sending(*([n] for n in range(200)))
    await run_until(registry, wire, [spec(tmp_path, max_batch=7)], lambda: 199 in store.trades())
    rows = store.rows()

    assert store.trades() == list(range(200))
    assert [n for _, n, _ in rows] == list(range(1, len(rows) + 1))
    assert len({epoch for epoch, _, _ in rows}) == 1
    assert threading.get_ident() not in store.faults.threads
    assert store.faults.most_running == 1


async def test_the_stack_selects_venues_symbols_channels_and_types(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    chosen = spec(tmp_path, symbols=["BTC/USD"], channels=["trades"], venues=["acme"])
    wire = sending([1, 2])
    await run_until(registry, wire, [chosen], lambda: 2 in store.trades())
    other = Store(tmp_path / "other.sqlite")
    registry.register(StorePlugin(other), "other")
    excluded = attrs.evolve(chosen, use="other", name="other", channels=("quotes",))
    await run_until(
        registry, sending([1, 2]), [excluded], lambda: Status in map(type, other.events())
    )

    assert store.trades() == [1, 2]
    assert other.trades() == []  # a status is about the whole feed


def test_a_selection_that_no_feed_has_is_a_mistake_with_a_hint(
    registry: Registry, store: Store
) -> None:
    feed = FeedSpec("acme", ["BTC/USD"], ["trades"])
    sink = SinkSpec("store", symbols=["BTC/USDT"], venues=["acne"])
    with pytest.raises(ConfigError) as caught:
        tapeloom.open(Stack(feeds=(feed,), sinks=(sink,)), registry=registry)

    assert "no feed has 'BTC/USDT'. Did you mean 'BTC/USD'?" in str(caught.value)
    assert "no feed has 'acne'. Did you mean 'acme'?" in str(caught.value)


# -------------------------------------------------------------------------------------- bad days


async def test_a_batch_whose_answer_was_lost_is_not_written_twice(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    store.faults.lose_answers = 3
    wire = sending(*([n] for n in range(50)))
    stream = await run_until(registry, wire, [spec(tmp_path)], lambda: 49 in store.trades())

    assert store.trades() == list(range(50))
    assert stream.counters["sink_retries"] == 3 - store.faults.lose_answers >= 1


async def test_a_sink_that_ignores_its_cursor_stores_events_twice(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    store.faults.lose_answers, store.faults.ignore_cursor = 1, True
    wire = sending(*([n] for n in range(5)))
    sinks = [spec(tmp_path, types=["trade"])]  # the first batch might have statuses alone
    await run_until(registry, wire, sinks, lambda: store.trades().count(0) == 2)

    assert Counter(store.trades())[0] == 2


async def test_a_store_that_is_down_is_tried_again_and_gets_everything_in_order(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    store.faults.refuse_open = [SinkUnavailable("the server does not answer.")] * 4
    with capture_logs() as logs:
        stream = await run_until(
            registry, sending(range(20)), [spec(tmp_path)], lambda: 19 in store.trades()
        )

    assert store.trades() == list(range(20))
    assert stream.counters["sink_retries"] == 3  # the first attempt is made before the feeds start
    assert [log["event"] for log in logs if "sink" in log["event"]][-1] == "sink_recovered"


async def test_what_a_full_queue_drops_is_a_gap_in_the_store(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    held = threading.Event()

    class Slow(SqliteSink):
        def write(self, batch: SinkBatch) -> None:
            held.wait(10)
            super().write(batch)

    class Plugin:
        @hookimpl
        def sink(self, settings: Any) -> SqliteSink:
            return Slow(store.path, store.faults)

    registry.register(Plugin(), "slow")
    sink = SinkSpec("slow", max_batch_delay=0.0, queue=QueueSpec(10, "drop_oldest"))
    wire = sending(*([n] for n in range(100)))
    feed = FeedSpec("acme", ["BTC/USD"], ["trades"])
    stack = Stack(feeds=(feed,), sinks=(sink,))
    with anyio.fail_after(20):
        async with tapeloom.open(stack, registry=registry, dial=wire.dial, seed=1) as stream:
            async for trade in stream.of(Trade):
                if trade.id == 99:
                    break
            held.set()
            while 99 not in store.trades():  # noqa: ASYNC110 - there is no event to wait for
                await anyio.sleep(0.01)
    overflows = [gap for gap in store.gaps() if gap.cause == "overflow" and gap.channel == "trades"]

    assert overflows
    assert len(store.trades()) + sum(gap.missing or 0 for gap in overflows) == 100


async def test_an_event_that_the_store_refuses_is_set_aside_and_the_store_names_it(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    store.faults.refuse = lambda event: isinstance(event, Trade) and event.id in {3, 17}
    await run_until(registry, sending(range(20)), [spec(tmp_path)], lambda: 19 in store.trades())
    rejects = [event for event in store.events() if isinstance(event, Reject)]
    file = tmp_path / "spool/store.set-aside.jsonl"
    aside = [json.loads(line) for line in file.read_text().splitlines()]
    numbers = [n for _, n, _ in store.rows()]

    assert store.trades() == [n for n in range(20) if n not in {3, 17}]
    assert [(event.rule, event.event.id) for event in rejects] == [  # type: ignore[union-attr]
        ("sink_refused", 3), ("sink_refused", 17),
    ]  # fmt: skip
    assert [decode(line["event"]).id for line in aside] == [3, 17]  # type: ignore[union-attr]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_an_error_that_a_sink_should_not_raise_is_tried_again_before_events_are_set_aside(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    store.faults.raise_in_write = [RuntimeError("odd"), RuntimeError("odd")]
    stream = await run_until(
        registry, sending(range(5)), [spec(tmp_path)], lambda: 4 in store.trades()
    )

    assert store.trades() == list(range(5))
    assert stream.counters["sink_errors"] == 0


async def test_a_store_that_cannot_be_used_ends_the_start_with_its_sentence(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    store.faults.refuse_open = [SinkRefused("the user may not create tables. Grant CREATE.")]
    with pytest.raises(SinkRefused, match="Grant CREATE"):
        await run_until(registry, sending([1]), [spec(tmp_path)], lambda: False)


async def test_a_sink_whose_store_becomes_unusable_is_disabled_and_the_others_go_on(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    other = Store(tmp_path / "other.sqlite")
    registry.register(StorePlugin(other), "other")
    store.faults.raise_in_write = [SinkRefused("the table was dropped.")]
    sinks = [spec(tmp_path), SinkSpec("other", max_batch_delay=0.01)]
    with capture_logs() as logs:
        await run_until(
            registry, sending(*([n] for n in range(50))), sinks, lambda: 49 in other.trades()
        )
    (disabled,) = [log for log in logs if log["event"] == "sink_disabled"]

    assert disabled["reason"] == "the table was dropped."
    assert other.trades() == list(range(50))
    assert store.trades() == []


# -------------------------------------------------------------------------------------- the spool


async def test_events_of_a_store_that_is_down_are_spooled_and_stored_after_a_restart(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    store.faults.refuse_open = [SinkUnavailable("the server does not answer.")] * 1000
    sink = spec(tmp_path, spool="10MB")
    first = await run_until(registry, sending(range(30)), [sink], lambda: store.faults.opened > 2)
    spooled = first.counters["spooled"]
    store.faults.refuse_open = []
    await run_until(registry, sending([30]), [sink], lambda: 30 in store.trades())
    rows = store.rows()

    assert spooled > 30
    assert store.trades() == list(range(31))
    assert [n for _, n, _ in rows] == list(range(1, len(rows) + 1))
    assert len({epoch for epoch, _, _ in rows}) == 1  # the run goes on


async def test_a_store_that_cannot_be_used_any_longer_leaves_its_events_in_the_spool(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    sink = spec(tmp_path, spool="10MB")
    store.faults.raise_in_write = [SinkRefused("the table was dropped.")]
    consumed = sending(range(10))
    await run_until(registry, consumed, [sink], lambda: not store.faults.raise_in_write)
    await run_until(registry, sending([10]), [sink], lambda: 10 in store.trades())

    assert store.trades() == list(range(11))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
def test_a_store_that_is_down_under_2000_events_a_second_loses_nothing_with_a_spool(
    registry: Registry, store: Store, tmp_path: Path, anyio_backend: str
) -> None:
    seconds, each, pause = 300 if LONG else 20, 200, 0.1
    count = round(seconds / pause) * each
    slowest = 0.0

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))
        for first in range(received, count, each):  # a later connection has nothing to send
            end.push(*(json.dumps(trade_row(n)) for n in range(first, first + each)))
            await anyio.sleep(pause)
        await anyio.sleep_forever()

    class Down(SqliteSink):
        """Cannot be opened until the market has ended."""

        def open(self, run: SinkRun) -> Resume:
            if received < count:
                raise SinkUnavailable("the server does not answer.")
            return super().open(run)

    class Plugin:
        @hookimpl
        def sink(self, settings: Any) -> SqliteSink:
            return Down(store.path, store.faults)

    async def run() -> None:
        nonlocal received, slowest
        feed = FeedSpec("acme", ["BTC/USD"], ["trades"])
        sink = SinkSpec("down", spool_folder=str(tmp_path), spool="500MB")
        stack = Stack(feeds=(feed,), sinks=(sink,))
        clock = LoopClock()
        async with tapeloom.open(
            stack, registry=registry, dial=FakeWire(answer).dial, seed=1, clock=clock
        ) as stream:
            async for batch in stream.batches(Trade):
                received += len(batch)
                slowest = max(slowest, (clock.time_ns() - batch[0].recv) / 1e9)
                if received == count:
                    break
            while store.last() < count - 1:  # noqa: ASYNC110 - there is no event to wait for
                await anyio.sleep(1)

    received = 0
    registry.register(Plugin(), "down")
    backend, options = virtual_backend(anyio_backend)
    anyio.run(run, backend=backend, backend_options=options)

    assert store.trades() == list(range(count))
    assert {gap.after_id for gap in store.gaps()} <= {count - 1}  # it stalls after its last trade
    assert slowest == 0.0  # another consumer got each event at once


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
def test_a_sink_is_called_once_a_second_while_nothing_comes_and_opened_again_after_its_error(
    registry: Registry, store: Store, tmp_path: Path, anyio_backend: str
) -> None:
    called: list[float] = []

    class Idle(SqliteSink):
        # Async, because virtual time does not wait for worker threads.
        async def open(self, run: SinkRun) -> Resume:  # type: ignore[override]
            return super().open(run)

        async def write(self, batch: SinkBatch) -> None:  # type: ignore[override]
            super().write(batch)

        async def close(self) -> None:  # type: ignore[override]
            super().close()

        async def idle(self) -> None:
            called.append(clock.monotonic())
            if len(called) == 3:
                raise OSError("the disk is gone")

    class Plugin:
        @hookimpl
        def sink(self, settings: Any) -> SqliteSink:
            return Idle(store.path, store.faults)

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))
        for numbers, pause in ((range(30), 0.1), (range(30, 31), 6.0), (range(31, 32), 1.9)):
            for number in numbers:
                end.push(json.dumps(trade_row(number)))
                await anyio.sleep(pause)
        await anyio.sleep_forever()

    async def run() -> None:
        feed = FeedSpec("acme", ["BTC/USD"], ["trades"])
        sink = SinkSpec("idle", spool_folder=str(tmp_path))
        stack = Stack(feeds=(feed,), sinks=(sink,))
        dial = FakeWire(answer).dial
        async with (
            tapeloom.open(stack, registry=registry, dial=dial, seed=1, clock=clock) as stream,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(stream.run)
            await anyio.sleep(12.5)
            stream.stop()

    clock = LoopClock()
    registry.register(Plugin(), "idle")
    backend, options = virtual_backend(anyio_backend)
    anyio.run(run, backend=backend, backend_options=options)

    # The first trades come until 3 s; the third call fails; the next trade comes at 9 s.
    assert called == [5.0, 6.0, 7.0, 11.0, 12.0]
    assert store.trades() == list(range(32))
    assert store.faults.opened == 2


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
def test_at_the_end_a_store_that_was_down_for_long_is_not_waited_for_but_tried_again_at_once(
    registry: Registry, store: Store, tmp_path: Path, anyio_backend: str
) -> None:
    """It answers again shortly before the end, within a pause of 15 seconds between two attempts."""
    tried: list[float] = []
    took = 0.0

    class Down(SqliteSink):
        # Async, because virtual time does not wait for worker threads.
        async def open(self, run: SinkRun) -> Resume:  # type: ignore[override]
            tried.append(anyio.current_time())
            if anyio.current_time() < 299.0:
                raise SinkUnavailable("the server does not answer.")
            return super().open(run)

        async def write(self, batch: SinkBatch) -> None:  # type: ignore[override]
            super().write(batch)

        async def close(self) -> None:  # type: ignore[override]
            super().close()

    class Plugin:
        @hookimpl
        def sink(self, settings: Any) -> SqliteSink:
            return Down(store.path, store.faults)

    async def run() -> None:
        nonlocal took
        feed = FeedSpec("acme", ["BTC/USD"], ["trades"])
        stack = Stack(feeds=(feed,), sinks=(SinkSpec("down", spool_folder=str(tmp_path)),))
        dial = sending(range(30)).dial
        async with (
            tapeloom.open(stack, registry=registry, dial=dial, seed=1, clock=LoopClock()) as stream,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(stream.run)
            while not (anyio.current_time() > 299.0 and tried[-1] < 299.0):  # noqa: ASYNC110
                await anyio.sleep(0.1)
            took = anyio.current_time()
            stream.stop()
        took = anyio.current_time() - took

    registry.register(Plugin(), "down")
    backend, options = virtual_backend(anyio_backend)
    anyio.run(run, backend=backend, backend_options=options)

    assert max(later - at for at, later in pairwise(tried)) > 5.0
    assert took < 1.0
    assert store.trades()[:30] == list(range(30))


async def test_a_full_spool_loses_nothing_in_silence(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    store.faults.refuse_open = [SinkUnavailable("the server does not answer.")] * 6
    sink = spec(tmp_path, spool=1_000, max_batch=5, queue=QueueSpec(20, "drop_oldest"))
    wire = sending(*([n] for n in range(300)))
    with capture_logs() as logs:
        await run_until(registry, wire, [sink], lambda: 299 in store.trades())
    lost = sum(gap.missing or 0 for gap in store.gaps() if gap.channel == "trades")

    assert [log for log in logs if log["event"] == "spool_failed"]
    assert lost > 0
    assert len(store.trades()) + lost == 300
    assert len(set(store.trades())) == len(store.trades())


async def test_a_spool_in_use_by_another_process_ends_the_start(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "spool").mkdir()
    with sqlite3.connect(tmp_path / "spool/store.spool") as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("CREATE TABLE held (n INTEGER)")
        other.commit()
        with pytest.raises(SinkRefused, match="used by another process"):
            await run_until(registry, sending([1]), [spec(tmp_path, spool="1MB")], lambda: False)
    other.close()


# ---------------------------------------------------------------------------- after a restart

#: Stores that have positions with each batch, and only now and then.
both_ways = pytest.mark.parametrize(
    "store", [SqliteSink, CheckpointSink], indirect=True, ids=["positions", "checkpoints"]
)


class Venue:
    """A venue with the trades 1 to *count*, of which each connection sends some; REST has them all."""

    def __init__(self, count: int, *runs: range) -> None:
        self.count = count
        self.runs = list(runs)
        self.asked: list[str] = []

    def get(self, path: str, default: Any = None) -> Any:
        if path == "/symbols":
            return 200, {}, b'["BTC/USD"]'
        self.asked.append(path)
        after = path.rpartition("=")[2]
        first = int(after) + 1 if after.isdecimal() else 1
        rows = [trade_row(n) for n in range(first, self.count + 1)[:50]]
        return 200, {}, json.dumps(rows).encode()

    async def serve(self, end: WireEnd, endpoint: Endpoint) -> None:
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))
        for n in self.runs.pop(0):
            end.push(json.dumps(trade_row(n)))
            await anyio.lowlevel.checkpoint()
        await anyio.sleep_forever()


@both_ways
@pytest.mark.parametrize("spool", ["0B", "10MB"])
async def test_what_was_missed_while_the_process_was_down_is_fetched_once_and_the_gap_is_named(
    registry: Registry, store: Store, tmp_path: Path, spool: str
) -> None:
    source = Venue(60, range(1, 21), range(50, 61))
    venue = FakeVenue(lambda client: anyio.sleep_forever(), http=source)  # type: ignore[arg-type]
    sink = spec(tmp_path, spool=spool)
    async with venue.serve():
        rest = venue.url("http")
        for last in (20, 49):
            wire = FakeWire(source.serve)
            await run_until(registry, wire, [sink], lambda: last in store.trades(), rest=rest)  # noqa: B023
    gaps = [(gap.cause, gap.after_id, gap.before_id, gap.state) for gap in store.gaps()]

    assert sorted(store.trades()) == list(range(1, 61))  # type: ignore[type-var]
    assert gaps == [("restart", 20, 50, "open"), ("restart", 20, 50, "filled")]


@both_ways
async def test_without_history_the_store_gets_the_gap_of_a_restart(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    await run_until(registry, sending([1, 2]), [spec(tmp_path)], lambda: 2 in store.trades())
    await run_until(registry, sending([7, 8]), [spec(tmp_path)], lambda: 8 in store.trades())
    (gap,) = store.gaps()

    assert store.trades() == [1, 2, 7, 8]
    assert (gap.cause, gap.since, gap.until, gap.state, gap.missing) == (
        "restart", START + 2 * SECOND, START + 7 * SECOND, "unrecoverable", 4,
    )  # fmt: skip


@both_ways
async def test_a_gap_that_was_being_filled_when_the_process_died_is_filled_after_the_restart(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    class Hanging(Venue):
        """Breaks the first connection after trade 5; REST does not answer in the first run."""

        answers = False
        connections = 0

        def get(self, path: str, default: Any = None) -> Any:
            if path != "/symbols" and not self.answers:
                return 503, {}, b"later"
            return super().get(path, default)

        async def serve(self, end: WireEnd, endpoint: Endpoint) -> None:
            self.connections += 1
            ending = self.connections == 1
            with anyio.move_on_after(0.2 if ending else 60):
                await super().serve(end, endpoint)
            end.close(1006)

    source = Hanging(30, range(1, 6), range(10, 13), range(20, 31))
    venue = FakeVenue(lambda client: anyio.sleep_forever(), http=source)  # type: ignore[arg-type]
    async with venue.serve():
        rest = venue.url("http")
        feed = FeedSpec("acme", ["BTC/USD"], ["trades"])
        table = {"acme": {"rest": rest, "past_trades": True}}
        stack = Stack(feeds=(feed,), sinks=(spec(tmp_path),), venues=table)
        wire = FakeWire(source.serve)
        with anyio.CancelScope() as killed:
            async with tapeloom.open(stack, registry=registry, dial=wire.dial, seed=1) as stream:
                with stream.of(Trade):
                    while 12 not in store.trades():  # noqa: ASYNC110 - nothing to wait for
                        await anyio.sleep(0.01)
                    killed.cancel()
                    await anyio.lowlevel.checkpoint()
        source.answers = True
        wire = FakeWire(source.serve)
        await run_until(
            registry, wire, [spec(tmp_path)], lambda: len(store.trades()) == 30, rest=rest
        )
    final = {(gap.cause, gap.after_id): gap.state for gap in store.gaps()}

    assert sorted(store.trades()) == list(range(1, 31))  # type: ignore[type-var]
    assert final == {("disconnect", 5): "filled", ("restart", 12): "filled"}


@both_ways
async def test_two_stores_that_stand_at_different_positions_get_each_trade_once(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    other = Store(tmp_path / "other.sqlite")
    registry.register(StorePlugin(other), "other")
    both = [spec(tmp_path), attrs.evolve(spec(tmp_path), use="other", name="other")]
    source = Venue(40, range(1, 11), range(11, 21), range(35, 41))
    venue = FakeVenue(lambda client: anyio.sleep_forever(), http=source)  # type: ignore[arg-type]
    async with venue.serve():
        rest = venue.url("http")
        for sinks, last in ((both, 10), (both[:1], 20), (both, 34)):
            stores = [store, other][: len(sinks)]
            await run_until(
                registry,
                FakeWire(source.serve),
                sinks,
                lambda: all(last in each.trades() and (last != 34 or 40 in each.trades()) for each in stores),  # noqa: B023
                rest=rest,
            )  # fmt: skip

    assert sorted(store.trades()) == list(range(1, 41))  # type: ignore[type-var]
    assert sorted(other.trades()) == list(range(1, 41))  # type: ignore[type-var]


@both_ways
async def test_a_store_that_could_not_say_where_it_stands_gets_a_gap_once_it_can(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    await run_until(registry, sending([1, 2]), [spec(tmp_path)], lambda: 2 in store.trades())
    store.faults.refuse_open = [SinkUnavailable("the server does not answer.")]
    await run_until(
        registry, sending([7]), [spec(tmp_path)], lambda: 7 in store.trades() and bool(store.gaps())
    )
    (gap,) = store.gaps()

    assert (gap.cause, gap.since, gap.state) == ("restart", START + 2 * SECOND, "unrecoverable")


async def test_replaying_a_tape_twice_into_a_store_changes_nothing(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    feed = FeedSpec("acme", ["BTC/USD"], ["trades"], name="majors")
    wire = sending(*([n] for n in range(100)))
    async with tapeloom.open(feed, registry=registry, dial=wire.dial, record=tmp_path) as stream:
        async for trade in stream.of(Trade):
            if trade.id == 99:
                stream.stop()
    stack = Stack(feeds=(feed,), sinks=(spec(tmp_path, max_batch=7),))
    found = []
    for batch in (256, 3):
        tape = tmp_path / "majors.jsonl.zst"
        async with tapeloom.replay(tape, stack, registry=registry, batch=batch) as again:
            await again.run()
        found.append(store.rows())

    assert store.trades() == list(range(100))
    assert found[0] == found[1]


async def test_a_replay_of_a_restarted_stream_makes_the_gap_of_the_restart(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    await run_until(registry, sending([1, 2]), [spec(tmp_path)], lambda: 2 in store.trades())
    feed = FeedSpec("acme", ["BTC/USD"], ["trades"], name="majors")
    stack = Stack(feeds=(feed,), sinks=(spec(tmp_path),))
    wire = sending([7, 8])
    live: list[Event] = []
    async with tapeloom.open(stack, registry=registry, dial=wire.dial, record=tmp_path) as stream:
        async for event in stream:
            live.append(event)
            if isinstance(event, Trade) and event.id == 8:
                stream.stop()
    tape = tmp_path / "majors.jsonl.zst"
    async with tapeloom.replay(tape, feed, registry=registry) as again:
        replayed = [event async for event in again]

    assert [event for event in live if isinstance(event, Gap)] != []
    assert [event for event in replayed if isinstance(event, Gap | Trade)] == [
        event for event in live if isinstance(event, Gap | Trade)
    ]
