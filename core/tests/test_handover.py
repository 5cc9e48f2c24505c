"""Handover to a successor: no event is lost, and none is delivered twice."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import anyio
import attrs
import pytest
import tapeloom
from attrs import define
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom import FeedSpec, Gap, Registry, Status, Trade
from tapeloom._connection.handover import Handover
from tapeloom.events import Book, Event, Quote, Ticker
from tapeloom.plugin import Endpoint
from tapeloom.units import Rate
from tapeloom_testing import FakeWire, VirtualClock, WireEnd


@define
class Exchange:
    """A venue with one trade every `every` seconds, sent to each connection with its own delay."""

    clock: VirtualClock
    lags: Sequence[float] = (0.0,)
    #: Seconds until each connection is closed; later ones are never closed.
    lives: Sequence[float] = ()
    #: Seconds after which a connection stays open and sends nothing more.
    mutes: Sequence[float] = ()
    every: float = 0.25
    count: int = 0

    @property
    def trades(self) -> int:
        return int(self.clock.monotonic() / self.every)

    async def serve(self, end: WireEnd, endpoint: Endpoint) -> None:
        number, self.count = self.count, self.count + 1
        lag = self.lags[number % len(self.lags)]
        closes_at = self.clock.monotonic() + [*self.lives, *[1e9] * self.count][number]
        mute_from = self.clock.monotonic() + [*self.mutes, *[1e9] * self.count][number]
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))
        at = self.trades
        while True:
            at += 1
            due = at * self.every + lag
            await self.clock.sleep(min(due, closes_at) - self.clock.monotonic())
            if self.clock.monotonic() >= closes_at:
                end.close(1006)
                return
            if self.clock.monotonic() < mute_from:
                end.push(json.dumps({"s": "BTCUSD", "t": at, "p": "1", "q": "1", "i": at}))


@asynccontextmanager
async def streaming(
    registry: Registry, acme: Any, seconds: float, refusals: Sequence[Exception] = (), **venue: Any
) -> AsyncIterator[tuple[Exchange, list[Event], FakeWire]]:
    clock = VirtualClock()
    exchange = Exchange(clock, **venue)
    wire = FakeWire(exchange.serve)
    events: list[Event] = []
    feed = FeedSpec("acme", ["BTC/USD"], ["trades"])
    with anyio.fail_after(250):
        async with (
            clock.running(),
            tapeloom.open(feed, registry=registry, clock=clock, dial=wire.dial, seed=1) as stream,
            anyio.create_task_group() as tasks,
        ):

            async def collect() -> None:
                async for event in stream:
                    events.append(event)  # noqa: PERF401 - they are read meanwhile

            tasks.start_soon(collect)
            await clock.sleep(0.3)
            wire.refusals = list(refusals)
            await clock.sleep(seconds)
            yield exchange, events, wire
            stream.stop()
            tasks.cancel_scope.cancel()


def ids(events: list[Event]) -> list[Any]:
    return [event.id for event in events if isinstance(event, Trade)]


@pytest.mark.parametrize("lags", [(0.0,), (0.0, 0.9), (0.9, 0.0), (1.5, 0.0, 1.5)])
async def test_a_planned_end_costs_no_event_whichever_connection_is_ahead(
    registry: Registry, acme: Any, lags: Sequence[float]
) -> None:
    acme.endpoint = {"max_age_seconds": 20.0, "silence_timeout_seconds": 1e6, "dial_rate": None}
    async with streaming(registry, acme, 100.0, lags=lags) as (exchange, events, wire):
        got = ids(events)

    assert len(wire.ends) == 5
    assert got == [*range(got[0], got[-1] + 1)]
    assert got[-1] >= exchange.trades - 8
    assert not [event for event in events if isinstance(event, Gap)]


@pytest.mark.thorough
async def test_a_day_of_rotations_loses_nothing_and_repeats_nothing(
    registry: Registry, acme: Any
) -> None:
    acme.endpoint = {
        "max_age_seconds": 3600.0,
        "silence_timeout_seconds": 1e6,
        "dial_rate": Rate(300, 300.0),
    }
    venue = {"lags": (0.3, 0.0, 1.0), "every": 10.0}
    async with streaming(registry, acme, 24 * 3600.0, **venue) as (_, events, wire):
        got = ids(events)

    assert len(wire.ends) >= 23
    assert got == [*range(got[0], got[-1] + 1)]


async def test_a_failed_successor_dial_is_retried_while_the_old_connection_goes_on(
    registry: Registry, acme: Any
) -> None:
    acme.endpoint = {"max_age_seconds": 20.0, "silence_timeout_seconds": 1e6, "dial_rate": None}
    refusals = [tapeloom.errors.ConnectionFailed("acme", "not now") for _ in range(3)]
    async with streaming(registry, acme, 39.0, refusals) as (_, events, wire):
        got = ids(events)

    assert len(wire.ends) == 2
    assert got == [*range(got[0], got[-1] + 1)]
    assert not [event for event in events if isinstance(event, Gap)]


async def test_an_old_connection_that_ends_during_the_handover_leaves_no_gap(
    registry: Registry, acme: Any
) -> None:
    acme.endpoint = {"max_age_seconds": 20.0, "silence_timeout_seconds": 1e6, "dial_rate": None}
    venue = {"lags": (0.5, 0.0), "lives": (22.2,)}
    async with streaming(registry, acme, 35.0, **venue) as (_, events, wire):
        got = ids(events)

    assert len(wire.ends) == 2
    assert got == [*range(got[0], got[-1] + 1)]
    assert not [event for event in events if isinstance(event, Gap)]
    assert "reconnecting" not in [e.state for e in events if isinstance(e, Status)]


async def test_what_an_old_connection_no_longer_sent_before_its_successor_was_live_is_a_gap(
    registry: Registry, acme: Any
) -> None:
    acme.endpoint = {"max_age_seconds": 20.0, "silence_timeout_seconds": 3.0, "dial_rate": None}
    async with streaming(registry, acme, 35.0, mutes=(19.0,)) as (_, events, wire):
        got = ids(events)
    missing = sorted({*range(got[0], got[-1] + 1)} - {*got})
    gaps = [event for event in events if isinstance(event, Gap)]

    assert len(wire.ends) == 2
    assert len(missing) >= 3
    assert got == sorted(set(got))
    assert [(gap.after_id, gap.before_id) for gap in gaps] == [(missing[0] - 1, missing[-1] + 1)]


async def test_a_successor_that_dies_is_followed_by_another(registry: Registry, acme: Any) -> None:
    acme.endpoint = {"max_age_seconds": 20.0, "silence_timeout_seconds": 1e6, "dial_rate": None}
    async with streaming(registry, acme, 35.0, lives=(1e6, 1.0)) as (_, events, wire):
        got = ids(events)

    assert len(wire.ends) == 3
    assert got == [*range(got[0], got[-1] + 1)]


async def test_where_the_venue_allows_one_connection_the_gap_is_reported(
    registry: Registry, acme: Any
) -> None:
    acme.endpoint = {
        "max_age_seconds": 20.0,
        "silence_timeout_seconds": 1e6,
        "dial_rate": None,
        "max_connections": 1,
    }
    async with streaming(registry, acme, 30.0) as (_, events, wire):
        got = ids(events)

    assert len(wire.ends) == 2
    assert len([event for event in events if isinstance(event, Gap)]) == 1
    assert got == sorted(set(got))


# ------------------------------------------------------------------------------------ duplicates

ONE = Decimal(1)


def trade(id: Any, ts: int = 1) -> Trade:
    return Trade("acme", "BTC/USD", ts, 5, ONE, ONE, "buy", id)


def book(last: int | None, kind: Any = "delta", ts: int = 1) -> Book:
    return Book("acme", "BTC/USD", ts, 5, kind, [("1", "1")], [], last, last)


@settings(max_examples=200)
@given(st.data())
def test_each_event_of_two_overlapping_connections_is_delivered_once(data: st.DataObject) -> None:
    """The old connection carries 1 to m, the new one k to n, k <= m + 1; the switch is anywhere."""
    m = data.draw(st.integers(1, 20))
    k = data.draw(st.integers(1, m + 1))
    n = data.draw(st.integers(max(m, k), 30))
    held = data.draw(st.integers(k - 1, n))
    make = data.draw(
        st.sampled_from(
            [
                trade,
                lambda i: trade("", i),
                lambda i: trade(f"x{i}"),
                book,
                lambda i: book(None, "snapshot", i),
            ]
        )
    )
    handover = Handover()
    out = handover.accept([make(i) for i in range(1, m + 1)])
    handover.buffer([make(i) for i in range(k, held + 1)])
    out = [*out, *handover.switch(), *handover.accept([make(i) for i in range(held + 1, n + 1)])]

    assert out == [make(i) for i in range(1, n + 1)]


def test_a_snapshot_behind_the_book_is_dropped_and_one_ahead_is_delivered() -> None:
    handover = Handover()
    handover.accept([book(7), book(8)])
    handover.buffer([book(6, "snapshot"), book(7), book(8), book(9)])

    assert [event.last_id for event in handover.switch() if isinstance(event, Book)] == [9]

    ahead = Handover()
    ahead.accept([book(7)])
    ahead.buffer([book(9, "snapshot"), book(10)])

    assert [event.last_id for event in ahead.switch() if isinstance(event, Book)] == [9, 10]


def test_core_events_are_never_deduplicated() -> None:
    handover = Handover()
    status = Status("acme", "", 1, 1, "subscribed")
    handover.accept([status])
    handover.buffer([status])

    assert handover.switch() == [status]


def test_quotes_without_sequence_are_compared_by_price_and_size() -> None:
    quote = Quote("acme", "BTC/USD", 1, 5, ONE, ONE, ONE + 1, ONE)
    other = attrs.evolve(quote, bid_size=Decimal(2))
    handover = Handover()
    handover.accept([quote])
    handover.buffer([quote, other])

    assert handover.switch() == [other]


def test_a_buffered_state_older_than_what_was_delivered_is_dropped() -> None:
    handover = Handover()
    ticker = Ticker("acme", "BTC/USD", 5, 5, ONE, ONE, ONE, ONE, ONE, ONE)
    quote = Quote("acme", "BTC/USD", 5, 5, ONE, ONE, Decimal(2), ONE)
    older = [attrs.evolve(event, ts=3) for event in (ticker, quote, book(None, "snapshot", 5))]
    newer = [attrs.evolve(event, ts=8) for event in older]
    handover.buffer([*older, *newer])
    handover.accept([ticker, quote, book(None, "snapshot", 5)])

    assert handover.switch() == newer
