"""Queues: bounded; dropped events are counted and reported as gaps."""

from __future__ import annotations

from decimal import Decimal

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tapeloom._config import QueueSpec
from tapeloom._stream.queues import Queue
from tapeloom.errors import QueueOverflow
from tapeloom.events import Bar, Event, Gap, Quote, Trade


def trade(n: int, symbol: str = "BTC/USDT") -> Trade:
    return Trade("acme", symbol, n, n, Decimal(n + 1), Decimal(1), "buy", n)


def quote(n: int) -> Quote:
    return Quote("acme", "BTC/USDT", n, n, Decimal(1), Decimal(1), Decimal(2), Decimal(1), n)


def drain(queue: Queue) -> list[Event]:
    out: list[Event] = []
    while events := queue.get_nowait():
        out += events
    return out


batches = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), max_size=30)


@given(batches, st.integers(1, 20))
def test_drop_oldest_delivers_every_event_or_reports_it_missing(
    numbers: list[list[int]], size: int
) -> None:
    queue = Queue(QueueSpec(size=size, policy="drop_oldest"))
    for batch in numbers:
        assert queue.put_nowait([trade(n) for n in batch])
    out = drain(queue)
    missing = sum(event.missing or 0 for event in out if isinstance(event, Gap))
    delivered = sum(1 for event in out if isinstance(event, Trade))

    assert delivered + missing == sum(map(len, numbers))
    assert delivered <= max(size, max(map(len, numbers), default=0))
    assert missing == queue.dropped


@given(batches, st.integers(1, 20))
def test_conflate_keeps_the_latest_of_each_kind_and_counts_the_rest(
    numbers: list[list[int]], size: int
) -> None:
    queue = Queue(QueueSpec(size=size, policy="conflate"))
    for batch in numbers:
        assert queue.put_nowait([trade(n, f"S{n % 3}/USDT") for n in batch])
    out = drain(queue)
    trades = [event for event in out if isinstance(event, Trade)]
    missing = sum(event.missing or 0 for event in out if isinstance(event, Gap))
    everything = [n for batch in numbers for n in batch]
    latest = {n % 3: n for n in everything}

    assert len(trades) + missing == len(everything)
    for key, n in latest.items():
        assert [t for t in trades if t.symbol == f"S{key}/USDT"][-1].ts == n


def test_conflate_keeps_the_latest_bar_of_each_interval() -> None:
    one = Decimal(1)
    queue = Queue(QueueSpec(size=2, policy="conflate"))
    for interval, n in (("1s", 1), ("1m", 1), ("1s", 2), ("1m", 2)):
        bar = Bar(
            "acme", "BTC/USDT", n, n, interval, one, one, one, one, one, None, None, None, None
        )
        queue.put_nowait([bar])
    bars = [event for event in drain(queue) if isinstance(event, Bar)]

    assert [(bar.interval, bar.ts) for bar in bars] == [("1s", 2), ("1m", 2)]


def test_the_overflow_gap_comes_before_the_kept_events_and_names_the_channel() -> None:
    queue = Queue(QueueSpec(size=2, policy="drop_oldest"))
    for n in range(5):
        queue.put_nowait([trade(n)])
    gap, first = queue.get_nowait()

    assert isinstance(gap, Gap)
    assert (gap.cause, gap.missing, gap.since, gap.until) == ("overflow", 3, 0, 2)
    assert (gap.symbol, gap.channel, gap.state) == ("BTC/USDT", "trades", "unrecoverable")
    assert first == trade(3)


def test_block_accepts_nothing_until_there_is_room() -> None:
    queue = Queue(QueueSpec(size=2, policy="block"))

    assert queue.put_nowait([trade(1), trade(2)])
    assert not queue.put_nowait([trade(3)])
    assert queue.get_nowait() == [trade(1), trade(2)]
    assert queue.put_nowait([trade(3)])


def test_an_empty_queue_accepts_a_batch_over_the_limit() -> None:
    queue = Queue(QueueSpec(size=2, policy="block"))

    assert queue.put_nowait([trade(n) for n in range(5)])
    assert len(queue.get_nowait()) == 5


async def test_put_waits_for_room_and_then_delivers_in_order() -> None:
    queue = Queue(QueueSpec(size=1, policy="block"))
    got: list[Event] = []

    async def produce() -> None:
        for n in range(20):
            await queue.put([trade(n)])
        queue.close()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(produce)
        while events := await queue.get():
            got += events

    assert got == [trade(n) for n in range(20)]


async def test_the_policy_error_raises_after_the_queued_events() -> None:
    queue = Queue(QueueSpec(size=1, policy="error"), name="strategy")
    queue.put_nowait([trade(1)])
    queue.put_nowait([trade(2)])

    assert await queue.get() == [trade(1)]
    with pytest.raises(QueueOverflow, match="'strategy' fell 1 events behind"):
        await queue.get()


async def test_closing_wakes_a_blocked_put() -> None:
    queue = Queue(QueueSpec(size=1, policy="block"))
    queue.put_nowait([trade(1)])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(queue.put, [trade(2)])
        await anyio.wait_all_tasks_blocked()
        queue.close()

    assert queue.closed


def test_only_events_of_the_selected_types_are_queued() -> None:
    queue = Queue(QueueSpec(size=9), [Quote])
    queue.put_nowait([trade(1), quote(2), trade(3)])
    queue.put_nowait([trade(4)])

    assert drain(queue) == [quote(2)]
    assert queue.received == 1
