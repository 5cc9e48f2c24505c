"""Frames by themselves: their bounds, what readers of Arrow see, memory, and threads."""

from __future__ import annotations

import gc
import tracemalloc
from decimal import Decimal
from itertools import islice
from threading import Thread

import anyio
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom import Bar, Book, Consumer, Gap, QueueSpec, Quote, Trade
from tapeloom._stream.queues import Queue
from tapeloom_columns import to_events
from tapeloom_frames import Frame

START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


def trade(n: int, recv: int | None = None, venue: str = "acme") -> Trade:
    time = START + (n if recv is None else recv)
    price, size = Decimal(n % 977 + 40_000) / 100, Decimal(n % 13 + 1) / 8
    return Trade(venue, f"S{n % 3}/USD", time - 5, time, price, size, "buy", n)


def bar(n: int, venue: str = "acme") -> Bar:
    low, high, volume = Decimal(n + 1), Decimal(n + 2) + Decimal("1E-18"), Decimal("2.5")
    ts = START + n * SECOND
    return Bar(
        venue, f"S{n % 3}/USD", ts, ts + SECOND, "1s", low, high, low, high, volume,
        high * volume, None, None, 3,
    )  # fmt: skip


def gap(n: int, recv: int) -> Gap:
    return Gap("acme", "S0/USD", START + recv, START + recv, START + n, START + recv, "sequence", 1)


def ids(table: pa.Table) -> list[object]:
    return [event.id for event in to_events(table)]


# ------------------------------------------------------------------------------------------- bounds


def test_a_frame_keeps_the_last_rows() -> None:
    frame = Frame(Trade, last=None, rows=300)
    for n in range(1000):
        frame.add([trade(n)])

    assert ids(frame.table()) == list(range(700, 1000))
    assert len(frame) == 300


def test_a_frame_keeps_what_was_received_within_its_time_before_the_newest() -> None:
    frame = Frame(Trade, last="10s", rows=None)
    frame.add(trade(n, n * SECOND) for n in range(1000))

    assert ids(frame.table()) == list(range(989, 1000))  # 10 seconds, both ends included


def test_what_is_exactly_as_old_as_its_time_is_kept() -> None:
    frame = Frame(Trade, last="10s")
    frame.add([trade(n, 0) for n in range(300)])
    before = len(frame)
    frame.add([trade(300, 10 * SECOND)])

    assert (before, len(frame)) == (300, 301)


def test_single_events_make_few_chunks() -> None:
    frame = Frame(Trade, last=None, rows=None)
    for n in range(20_000):
        frame.add([trade(n)])

    assert frame.table()["ts"].num_chunks < 80


@given(
    batches=st.lists(st.lists(st.integers(0, 3 * SECOND), max_size=400), max_size=12),
    rows=st.none() | st.integers(1, 500),
    last=st.none() | st.integers(1, 400).map(lambda seconds: f"{seconds}s"),
    reads=st.sets(st.integers(0, 12)),
)
@settings(deadline=None, max_examples=60)
def test_a_frame_equals_a_list_that_is_cut(
    batches: list[list[int]], rows: int | None, last: str | None, reads: set[int]
) -> None:
    frame = Frame(Trade, last=last, rows=rows)
    events: list[Trade] = []
    recv = 0
    for number, waits in enumerate(batches):
        batch = []
        for waited in waits:
            recv += waited
            batch.append(trade(len(events) + len(batch), recv))
        events += batch
        frame.add(batch)
        if number in reads:
            len(frame)
    expected = events[-rows:] if rows else events
    if last:
        expected = [
            event for event in expected if event.recv >= START + recv - int(last[:-1]) * SECOND
        ]

    assert to_events(frame.table()) == expected
    assert len(frame) == len(expected)


def test_taken_rows_come_once() -> None:
    frame = Frame(Trade)
    frame.add(map(trade, range(10)))
    first = frame.take()
    frame.add(map(trade, range(10, 13)))
    second = frame.take()

    assert (ids(first.table()), ids(second.table()), len(frame)) == (
        list(range(10)),
        [10, 11, 12],
        0,
    )


def test_a_dropped_frame_is_empty_and_filled_again() -> None:
    frame = Frame(Trade)
    frame.add([trade(1), gap(0, 1)])
    frame.drop()
    dropped = len(frame), frame.gaps
    frame.add([trade(2)])

    assert dropped == (0, [])
    assert ids(frame.table()) == [2]


def test_events_of_other_types_are_ignored() -> None:
    frame = Frame(Trade)
    frame.add([trade(1), bar(1)])

    assert ids(frame.table()) == [1]


@pytest.mark.parametrize(("last", "rows"), [("soon", 5), ("1h", 0)])
def test_limits_that_are_none_are_refused(last: str, rows: int) -> None:
    with pytest.raises(
        ValueError, match=r"is not a duration|expected a whole number of at least 1"
    ):
        Frame(Trade, last, rows)


# --------------------------------------------------------------------------------------------- gaps


def test_a_gap_stands_in_its_last_state_until_its_time_is_over() -> None:
    frame = Frame(Trade, last="10s")
    frame.add([gap(0, 1 * SECOND), trade(1, 1 * SECOND), gap(500, 2 * SECOND)])
    filled = gap(0, 3 * SECOND)
    filled.state = "filled"
    frame.add([filled])
    both = [(found.since - START, found.state) for found in frame.gaps]
    frame.add([trade(2, 12 * SECOND + 1)])

    assert both == [(500, "open"), (0, "filled")]
    assert [found.state for found in frame.gaps] == ["filled"]


def test_what_a_full_queue_drops_is_a_gap_of_the_frame() -> None:
    queue = Queue(QueueSpec(size=5, policy="drop_oldest"), {Trade, Gap})
    for first in range(0, 20, 4):
        queue.put_nowait([trade(n) for n in range(first, first + 4)])
    queue.close()
    frame = Frame(Trade)
    anyio.run(frame.fill, Consumer(queue))

    assert ids(frame.table()) == [16, 17, 18, 19]
    assert {found.cause for found in frame.gaps} == {"overflow"}
    assert sum(found.missing or 0 for found in frame.gaps) == 16


def test_an_event_that_fits_no_exact_column_is_refused_and_counted() -> None:
    frame = Frame(Trade)
    wrong = trade(2)
    wrong.price = Decimal("1E-19")
    frame.add([trade(1), wrong, trade(3)])

    assert ids(frame.table()) == [1, 3]
    assert frame.refused == 1
    assert [(found.event, found.field) for found in frame.refusals] == [(wrong, "price")]


# ------------------------------------------------------------------------------------------ readers


@pytest.fixture
def bars() -> Frame:
    frame = Frame(Bar)
    for venue in ("acme", "bolt"):  # chunks whose dictionaries differ
        frame.add(bar(n, venue) for n in range(200))
    return frame


def test_polars_reads_the_exact_values(bars: Frame) -> None:
    frame = pl.DataFrame(bars)

    assert frame["venue"].to_list() == ["acme"] * 200 + ["bolt"] * 200
    assert frame["high"].to_list() == 2 * [bar(n).high for n in range(200)]
    assert frame["ts"].dtype == pl.Datetime("ns", "UTC")
    assert list(map(Decimal, frame["quote_volume"])) == 2 * [
        bar(n).quote_volume for n in range(200)
    ]


def test_pandas_reads_the_exact_values(bars: Frame) -> None:
    frame = pd.DataFrame.from_arrow(bars)

    assert list(frame["symbol"]) == 2 * [bar(n).symbol for n in range(200)]
    assert list(frame["high"]) == 2 * [bar(n).high for n in range(200)]
    assert [time.value for time in frame["ts"]] == 2 * [bar(n).ts for n in range(200)]


def test_duckdb_reads_the_exact_values(bars: Frame) -> None:
    rows = duckdb.sql("SELECT venue, max(high), count(*) FROM bars GROUP BY venue ORDER BY venue")

    assert rows.fetchall() == [("acme", bar(199).high, 200), ("bolt", bar(199).high, 200)]


@pytest.mark.parametrize("event_class", [Trade, Bar, Book, Quote, Gap])
def test_an_empty_frame_has_the_columns_of_its_class(event_class: type) -> None:
    empty = Frame(event_class)

    assert pl.DataFrame(empty).columns == empty.table().schema.names
    assert list(pd.DataFrame.from_arrow(empty)) == empty.table().schema.names
    assert duckdb.sql("SELECT * FROM empty").columns == empty.table().schema.names


def test_what_was_read_does_not_change_while_the_frame_is_filled() -> None:
    frame = Frame(Trade, rows=1000)
    frame.add(map(trade, range(1000)))
    table, read = frame.table(), pl.DataFrame(frame)
    frame.add(map(trade, range(1000, 3000)))

    assert ids(table) == list(range(1000))
    assert read["id"].to_list() == list(map(str, range(1000)))


def test_readers_in_other_threads_see_whole_windows_while_a_frame_is_filled() -> None:
    frame, count = Frame(Trade, last=None, rows=5000), 60_000
    seen: list[tuple[int, int, int]] = []

    def fill() -> None:
        numbers = iter(range(count))
        while batch := [trade(n) for n in islice(numbers, 37)]:
            frame.add(batch)

    filling = Thread(target=fill)
    filling.start()
    while filling.is_alive():
        found = pl.DataFrame(frame)["seq"]
        if len(found):
            seen.append((found[0], found[-1], len(found)))
    filling.join()

    assert len(seen) > 3
    assert all(last - first + 1 == rows for first, last, rows in seen)  # no row lost or twice
    assert max(rows for *_, rows in seen) == 5000
    assert ids(frame.table()) == list(range(count - 5000, count))


# ------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("size", [1, 300])
def test_a_frame_holds_at_most_a_fifth_more_than_its_columns(size: int) -> None:
    warm = Frame(Trade, rows=300)  # what is made once in a process is no part of a frame
    for n in range(1000):
        warm.add([trade(n)])
    assert warm.table().combine_chunks().nbytes
    gc.collect()
    arrow = pa.total_allocated_bytes()
    tracemalloc.start()
    frame = Frame(Trade, last=None, rows=12_000)
    worst = 0.0
    for number, first in enumerate(range(0, 24_000, size)):
        frame.add(trade(n) for n in range(first, first + size))
        if number % (700 // size) == 0 and first > 12_000:
            python, _ = tracemalloc.get_traced_memory()
            held = python + pa.total_allocated_bytes() - arrow
            table = frame.table().combine_chunks()
            worst = max(worst, held / table.nbytes)
            del table
    tracemalloc.stop()

    print(f"\nreads of {size}: {worst:.3f} times the bytes of the columns")
    assert 1 <= worst <= 1.2
