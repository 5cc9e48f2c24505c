"""Relayed feeds: events of other streams pass unchanged, and sinks store with them up to where they came.

The store is a SQLite file; the relay is a list of batches, which it reads from its cursor on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
import tapeloom
from tapeloom import Bar, Event, FeedSpec, Gap, Registry, Reject, SinkSpec, Stack, Status, Trade
from tapeloom._gaps.relayed_gaps import RelayedGaps
from tapeloom._stream.queues import Queue
from tapeloom.errors import BatchRefused, ConfigError, ConnectionLost, SinkUnavailable
from tapeloom.events import decode, encode
from tapeloom.hooks import hookimpl
from tapeloom.plugin import Cursor, Feed, Guarantee, Loss, RelayedBatch, Resume, SinkBatch, SinkRun

ONE = Decimal(1)
SECOND = 1_000_000_000


def trade(n: int, venue: str = "binance", symbol: str = "BTC/USDT", recv: int = 0) -> Trade:
    return Trade(venue, symbol, n, recv or n, ONE, ONE, "buy", n)


class ListRelay:
    """Relays batches, each with its index plus one as the number of its cursor."""

    backends = frozenset({"asyncio", "trio"})
    channels = frozenset[str]()
    resumes = True

    def __init__(self, batches: Sequence[Sequence[Event]], *, feed: str = "acme-relay") -> None:
        self.batches = batches
        self.feed = feed
        self.origin = "list"
        self.resumed: list[Cursor | None] = []
        self.position = 0
        self.loses: set[int] = set()  #: the connection is lost once after these batches

    def resume(self, cursor: Cursor | None) -> None:
        self.resumed.append(cursor)
        self.position = cursor.number if cursor is not None else 0

    async def run(self, deliver: Callable[[list[Event]], Awaitable[None]]) -> None:
        while self.position < len(self.batches):
            number = self.position + 1
            cursor = Cursor(self.feed, self.origin, number, text="more")
            await deliver(RelayedBatch(self.batches[self.position], cursor))
            self.position = number
            if number in self.loses:
                self.loses.remove(number)
                raise ConnectionLost("relay", "gone")

    def symbols_changed(self) -> None:
        pass


class RelayPlugin:
    def __init__(self, relay: ListRelay) -> None:
        self.relay = relay

    @hookimpl
    def connect(self, feed: Any) -> ListRelay:
        return self.relay


@attrs.define
class Store:
    """A SQLite file, and what goes wrong with it."""

    path: Path
    refuse_open: int = 0  #: so many calls of `open` fail
    refuse: Callable[[Event], bool] = lambda event: False
    lose_answers: int = 0

    def events(self) -> list[Event]:
        if not self.path.exists():
            return []
        with closing(sqlite3.connect(self.path)) as database:
            rows = database.execute("SELECT line FROM event ORDER BY rowid").fetchall()
        return [decode(line) for (line,) in rows]

    def ids(self) -> list[int | str]:
        return [event.id for event in self.events() if isinstance(event, Trade)]


class SqliteSink:
    guarantee: Guarantee = "exactly_once"

    def __init__(self, store: Store) -> None:
        self._store = store
        self._database: sqlite3.Connection | None = None

    def open(self, run: SinkRun) -> Resume:
        if self._store.refuse_open:
            self._store.refuse_open -= 1
            raise SinkUnavailable("down")
        self._run = run
        self._database = sqlite3.connect(
            self._store.path, isolation_level=None, check_same_thread=False
        )
        self._database.executescript(
            "CREATE TABLE IF NOT EXISTS event (line TEXT);"
            "CREATE TABLE IF NOT EXISTS last (epoch INTEGER PRIMARY KEY, n INTEGER);"
            "CREATE TABLE IF NOT EXISTS position (key TEXT PRIMARY KEY, value TEXT);"
        )
        last = self._database.execute("SELECT n FROM last WHERE epoch = ?", [run.epoch]).fetchone()
        positions = self._database.execute("SELECT key, value FROM position").fetchall()
        return Resume(last[0] if last else 0, dict(positions))

    def write(self, batch: SinkBatch) -> None:
        assert self._database is not None
        if any(self._store.refuse(event) for event in batch.events):
            raise BatchRefused("not this one")
        self._database.execute("BEGIN")
        self._database.executemany(
            "INSERT INTO event VALUES (?)", [(encode(event),) for event in batch.events]
        )
        self._database.execute(
            "INSERT OR REPLACE INTO last VALUES (?, ?)", [batch.epoch, batch.last]
        )
        self._database.executemany(
            "INSERT OR REPLACE INTO position VALUES (?, ?)", list(batch.positions.items())
        )
        self._database.execute("COMMIT")
        if self._store.lose_answers:
            self._store.lose_answers -= 1
            raise SinkUnavailable("the answer was lost")

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


class StorePlugin:
    def __init__(self, store: Store) -> None:
        self.store = store

    @hookimpl
    def sink(self, settings: Any) -> SqliteSink:
        return SqliteSink(self.store)


def stack_of(tmp_path: Path, *stores: str, stages: Sequence[str] = (), **sink: Any) -> Stack:
    sinks = [
        SinkSpec(
            name, name=name, spool_folder=str(tmp_path / "spool"), max_batch_delay=0.001, **sink
        )
        for name in stores
    ]
    feed = FeedSpec("relay", name="acme-relay", stages=tuple(stages))
    return Stack(feeds=(feed,), sinks=tuple(sinks))


async def run(relay: ListRelay, stack: Stack, **stores: Store) -> list[Event]:
    """Run the relay to its end with these stores; return what a consumer receives."""
    registry = Registry()
    registry.register(RelayPlugin(relay), "relay")
    registry.register(TotalsPlugin(), "totals")
    for name, store in stores.items():
        registry.register(StorePlugin(store), name)
    with anyio.fail_after(20):
        async with tapeloom.open(stack, registry=registry, seed=1) as stream:
            return [event async for event in stream]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store.sqlite")


# ------------------------------------------------------------------------------------------ events


async def test_events_of_several_venues_pass_unchanged_with_their_gaps_rejects_and_statuses(
    tmp_path: Path,
) -> None:
    rejected = trade(5)
    events: list[Event] = [
        trade(1),
        Gap("binance", "BTC/USDT", 4, 4, 1, 4, "disconnect", 2, "unrecoverable", "trades", 1, 4),
        trade(4),
        Reject("binance", "BTC/USDT", 5, 5, "jump", "evidence", rejected, "trades"),
        Status("bybit", "", 6, 6, "disconnected"),
        trade(7, "bybit"),
        trade(9, "bybit", symbol="ETH/USDT"),  # 8 is missing: not ours to say
    ]

    received = await run(ListRelay([events[:3], events[3:]]), stack_of(tmp_path))

    assert received[:-1] == events
    assert isinstance(received[-1], Status)
    assert received[-1].state == "ended"


async def test_a_relay_that_lost_its_connection_continues_without_a_gap(tmp_path: Path) -> None:
    relay = ListRelay([[trade(1)], [trade(2)], [trade(3)]])
    relay.loses = {1, 2}

    received = await run(relay, stack_of(tmp_path))

    assert [event.id for event in received if isinstance(event, Trade)] == [1, 2, 3]
    assert not [event for event in received if isinstance(event, Gap)]


def test_only_a_relay_may_leave_out_symbols_and_channels(registry: Registry) -> None:
    with pytest.raises(ConfigError) as caught:
        tapeloom.open({"feed": [{"venue": "acme"}]}, registry=registry)

    assert [(mistake.place, mistake.problem) for mistake in caught.value.mistakes] == [
        (f"feed[0].{key}", f"the key {key!r} is missing; expected a string or an array of strings")
        for key in ("symbols", "channels")
    ]


# ------------------------------------------------------------------------------------------ stages


class Totals:
    """A stage that counts trades by symbol, as bars do, and says on the way what its feed is."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.counts: dict[str, int] = {}
        self.due: int | None = None
        self.ticks: list[int] = []

    def __call__(self, events: list[Event]) -> list[Event]:
        for event in events:
            if isinstance(event, Trade):
                assert event.venue == self.feed.venue
                assert event.symbol in self.feed.symbols
                self.counts[event.symbol] = self.counts.get(event.symbol, 0) + 1
                self.due = self.due or event.recv + SECOND
        return events

    def tick(self, now: int) -> list[Event]:
        self.due = None
        return [Status(self.feed.venue, "", now, now, "ticked")]

    def flush(self) -> list[Event]:
        return [
            Status(self.feed.venue, symbol, 0, 0, f"counted {count}")
            for symbol, count in self.counts.items()
        ]


class TotalsPlugin:
    @hookimpl
    def aggregate(self, feed: Feed) -> Totals:
        return Totals(feed)


async def test_each_venue_of_a_relayed_feed_has_stages_of_its_own(tmp_path: Path) -> None:
    batches = [[trade(1), trade(2, "bybit"), trade(3)], [trade(4, "bybit"), trade(5)]]

    received = await run(ListRelay(batches), stack_of(tmp_path, stages=["totals"]))

    assert [(event.venue, event.state) for event in received if isinstance(event, Status)] == [
        ("binance", "counted 3"),
        ("bybit", "counted 2"),
        ("relay", "ended"),
    ]


async def test_time_passes_for_stages_with_the_events_however_late_they_are_read(
    tmp_path: Path,
) -> None:
    start = 1_700_000_000 * SECOND
    # The stage asks for a tick a second after the first trade; clocks may differ by 2.5 s.
    batches = [[trade(n, recv=start + n * SECOND)] for n in (1, 2, 4, 5, 6)]

    received = await run(ListRelay(batches), stack_of(tmp_path, stages=["totals"]))

    states = [event.id if isinstance(event, Trade) else event.state for event in received]  # type: ignore[union-attr]
    assert states[:6] == [1, 2, 4, "ticked", 5, 6]


def test_a_gap_that_the_stream_has_reported_is_not_reported_by_a_stage_again() -> None:
    gaps = RelayedGaps("binance")
    place = {"since": 10, "until": 20, "recv": 20}
    known = Gap("binance", "BTC/USDT", 20, 20, 10, 20, "disconnect", 3, "open", "trades", 4, 8)
    gaps.record([known])

    assert gaps.open(Loss("BTC/USDT", "trades", after_id=4, before_id=8, **place)) == []  # type: ignore[arg-type]
    wider = Loss("BTC/USDT", "trades", after_id=2, before_id=10, since=5, until=25, recv=25)
    assert [(gap.after_id, gap.before_id, gap.missing) for gap in gaps.open(wider)] == [  # type: ignore[union-attr]
        (2, 5, 2),
        (7, 10, 2),
    ]
    assert gaps.open(attrs.evolve(wider, recv=26)) == []
    assert gaps.open(Loss("ETH/USDT", "trades", **place))  # type: ignore[arg-type]


def test_a_gap_of_a_whole_feed_covers_all_its_symbols() -> None:
    gaps = RelayedGaps("binance")
    gaps.record([Gap("binance", "", 20, 20, 10, 20, "disconnect", None, "unrecoverable")])

    assert not gaps.open(Loss("ETH/USDT", "book", since=12, until=18, recv=20))
    assert gaps.open(Loss("ETH/USDT", "book", since=12, until=21, recv=21))


# ----------------------------------------------------------------------------------------- cursors


@pytest.mark.parametrize("spool", [0, 10_000_000], ids=["no spool", "spool"])
async def test_a_relay_continues_after_what_is_stored_and_each_event_is_stored_once(
    store: Store, tmp_path: Path, spool: int
) -> None:
    batches = [[trade(2 * n), trade(2 * n + 1)] for n in range(40)]
    stack = stack_of(tmp_path, "store", spool=spool, max_batch=5)
    relays = []
    for end in (7, 7, 23, 40):
        relays.append(relay := ListRelay(batches[:end]))
        await run(relay, stack, store=store)

    assert store.ids() == list(range(80))
    resumed = [cursor for relay in relays for cursor in relay.resumed]
    assert [cursor and cursor.number for cursor in resumed] == [None, 7, 7, 23]
    assert resumed[1] == Cursor("acme-relay", "list", 7, text="more")


@pytest.mark.parametrize("spool", [0, 10_000_000], ids=["no spool", "spool"])
async def test_a_lost_answer_of_the_store_repeats_nothing(
    store: Store, tmp_path: Path, spool: int
) -> None:
    batches = [[trade(n)] for n in range(20)]
    stack = stack_of(tmp_path, "store", spool=spool, max_batch=3)
    store.lose_answers = 4
    await run(ListRelay(batches[:9]), stack, store=store)
    store.lose_answers = 2
    await run(ListRelay(batches), stack, store=store)

    assert store.ids() == list(range(20))


async def test_a_refused_event_does_not_move_the_cursor_past_the_events_around_it(
    store: Store, tmp_path: Path
) -> None:
    batches = [[trade(2 * n), trade(2 * n + 1)] for n in range(10)]
    store.refuse = lambda event: isinstance(event, Trade) and event.id == 5
    stack = stack_of(tmp_path, "store")
    for end in (4, 10):
        await run(ListRelay(batches[:end]), stack, store=store)

    assert store.ids() == [n for n in range(20) if n != 5]


async def test_of_two_stores_that_stand_at_different_places_each_gets_what_it_lacks(
    store: Store, tmp_path: Path
) -> None:
    batches = [[trade(n)] for n in range(12)]
    other = Store(tmp_path / "other.sqlite")
    await run(ListRelay(batches[:4]), stack_of(tmp_path, "store"), store=store)
    await run(ListRelay(batches[:9]), stack_of(tmp_path, "other"), other=other)

    both = stack_of(tmp_path, "store", "other")
    relay = ListRelay(batches)
    await run(relay, both, store=store, other=other)

    assert relay.resumed[0] is not None
    assert relay.resumed[0].number == 4
    assert store.ids() == list(range(12))
    assert other.ids() == list(range(12))


async def test_a_relay_waits_for_a_store_that_cannot_say_yet_where_it_stands(
    store: Store, tmp_path: Path
) -> None:
    batches = [[trade(n)] for n in range(6)]
    stack = stack_of(tmp_path, "store")
    await run(ListRelay(batches[:3]), stack, store=store)
    store.refuse_open = 2
    relay = ListRelay(batches)
    await run(relay, stack, store=store)

    assert relay.resumed[0] is not None
    assert store.ids() == list(range(6))


async def test_cursors_of_another_origin_are_not_compared(store: Store, tmp_path: Path) -> None:
    stack = stack_of(tmp_path, "store")
    await run(ListRelay([[trade(n)] for n in range(5)]), stack, store=store)
    anew = ListRelay([[trade(100)], [trade(101)]])
    anew.origin = "another list"
    anew.resume = lambda cursor: None  # type: ignore[method-assign]  # it begins anew
    await run(anew, stack, store=store)

    assert store.ids() == [0, 1, 2, 3, 4, 100, 101]


@pytest.mark.parametrize("policy", ["drop_oldest", "conflate"])
def test_a_queue_that_drops_events_does_not_report_their_cursors_as_lost(policy: Any) -> None:
    queue = Queue(tapeloom.QueueSpec(4, policy), name="q")
    queue.keeps_cursors = True
    for n in range(5):
        queue.put_nowait([trade(n, recv=7), trade(n + 10)], Cursor("feed", "list", n))
    events: list[Any] = []
    while batch := queue.get_nowait():
        events += batch

    gaps = [event for event in events if isinstance(event, Gap)]
    assert {gap.symbol for gap in gaps} == {"BTC/USDT"}
    assert isinstance(events[-1], Cursor)
    assert not isinstance(events[-1], Bar)
    assert events[-1].number == 4
