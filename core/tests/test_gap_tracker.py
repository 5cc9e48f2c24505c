"""GapTracker and LastSeen: where gaps begin and end, and that each is reported once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import anyio
import pytest
import tapeloom
from attrs import evolve
from tapeloom import Event, FeedSpec, Gap, Quote, Registry, Stack, Trade
from tapeloom._gaps.gap_tracker import GapTracker
from tapeloom._gaps.last_seen import LastSeen
from tapeloom.errors import ConnectionLost
from tapeloom.plugin import Feed, Subscription, TradeBatch
from tapeloom_testing import VirtualClock

SECOND = 1_000_000_000
ONE = Decimal(1)
TRADES, QUOTES = Subscription("BTC/USD", "trades"), Subscription("BTC/USD", "quotes")


def trade(at: float, number: int | str = "", seen: float | None = None) -> Trade:
    """A trade at that second, received 0.1 s later unless *seen* says otherwise."""
    ts = round(at * SECOND)
    recv = ts + SECOND // 10 if seen is None else round(seen * SECOND)
    return Trade("acme", "BTC/USD", ts, recv, ONE, ONE, "buy", number, "trades")


def quote(at: float, seen: float) -> Quote:
    return Quote(
        "acme", "BTC/USD", round(at * SECOND), round(seen * SECOND), ONE, ONE, ONE, ONE, "quotes"
    )


class Rig:
    """A GapTracker with two live subscriptions, called as a supervisor calls it."""

    def __init__(self) -> None:
        self.last_seen = LastSeen()
        self.gaps = GapTracker("acme", self.last_seen)
        self.gaps.live |= {TRADES, QUOTES}

    def read(self, *events: Event) -> list[Gap]:
        reported = self.gaps.insert_gaps(events) if self.gaps.open_gaps else events
        self.last_seen.add(list(events))
        return [event for event in reported if isinstance(event, Gap)]


def test_a_gap_of_trades_is_on_the_clock_of_the_trades_channel() -> None:
    rig = Rig()
    rig.read(trade(10), quote(15, seen=10.2))  # the clock of the quotes is five seconds ahead
    rig.gaps.open_all(11 * SECOND)
    (gap,) = rig.read(trade(20))

    assert (gap.since, gap.until) == (10 * SECOND, 20 * SECOND)


def test_a_gap_of_trades_begins_with_the_last_trade_of_the_symbol() -> None:
    rig = Rig()
    rig.read(trade(10))
    other = evolve(trade(15), symbol="ETH/USD")
    rig.read(other)
    rig.gaps.open_all(16 * SECOND)
    (gap,) = rig.read(trade(20))

    assert gap.since == 10 * SECOND


def test_the_offset_of_a_clock_that_was_set_back_is_learnt_after_a_while() -> None:
    rig = Rig()
    for at in range(10):
        rig.read(trade(at + 5, seen=at))  # ahead of ours
    for at in range(10, 200):
        rig.read(trade(at - 0.1, seen=at))
    rig.gaps.open_stalled(TRADES, 200 * SECOND, 0.0)
    (gap,) = rig.read(trade(220))

    assert gap.since == round(199.9 * SECOND)


def test_a_gap_begins_where_the_subscription_stopped_before_the_disconnect() -> None:
    rig = Rig()
    rig.read(trade(10))
    rig.gaps.open_all(30 * SECOND, maybe_stalled={TRADES: 9 * SECOND})
    (gap,) = rig.read(trade(40))

    assert gap.since == round(8.9 * SECOND)


@pytest.mark.parametrize(("first", "last", "begins"), [(7, 12, "since"), ("a", "b", "until")])
def test_a_gap_counted_by_ids_begins_with_the_last_trade(
    first: int | str, last: int | str, begins: str
) -> None:
    rig = Rig()
    rig.read(trade(10, first))
    rig.gaps.open_all(11 * SECOND)
    rig.gaps.confirmed([TRADES], 21 * SECOND, 21.0)  # acknowledged, but no event
    (unended,) = rig.gaps.overdue(30.0)
    rig.gaps.open_all(31 * SECOND)
    (gap,) = rig.read(trade(40, last))

    assert (unended.since, unended.until) == (10 * SECOND, round(20.9 * SECOND))
    assert gap.since == getattr(unended, begins)


def test_a_stall_discards_the_acknowledgement_before_it() -> None:
    rig = Rig()
    rig.read(trade(10))
    rig.gaps.open_all(11 * SECOND)
    rig.gaps.confirmed([TRADES], 20 * SECOND, 20.0)
    rig.gaps.open_stalled(TRADES, 21 * SECOND, 0.0)

    assert rig.gaps.overdue(40.0) == []
    (gap,) = rig.read(trade(50))
    assert (gap.since, gap.until) == (10 * SECOND, 50 * SECOND)


def test_a_dropped_subscription_is_removed_from_the_last_seen_events() -> None:
    last_seen = LastSeen()
    last_seen.add(TradeBatch([trade(1, 5)], [0]))
    last_seen.add([trade(2, 6)])
    last_seen.forget([TRADES])

    assert last_seen.last_event(TRADES) is None


def test_numeric_trade_ids_are_kept_only_while_they_are_watched() -> None:
    last_seen = LastSeen()
    last_seen.add([trade(1, 5)])
    assert last_seen.trade_ids(TRADES, 0) == set()  # the last id is enough

    watch = last_seen.watch_trade_ids(TRADES, 2 * SECOND)
    last_seen.add([trade(2, 6), trade(1.5, 5)])
    last_seen.add(TradeBatch([trade(n, n + 4) for n in range(3, 20)], [0] * 17))
    assert watch() == set(range(6, 24))

    del watch
    last_seen.add([trade(30, 34)])
    assert 34 not in last_seen.trade_ids(TRADES, 0)


def test_text_trade_ids_are_kept_before_they_are_watched() -> None:
    last_seen = LastSeen()
    last_seen.add([trade(1, "a"), trade(2, "b")])
    last_seen.add(TradeBatch([trade(3, f"c{n}") for n in range(2000)], [0] * 2000))

    known = last_seen.watch_trade_ids(TRADES, 2 * SECOND)()
    assert 1000 < len(known) <= 1024  # the latest
    assert "c1999" in known


# ------------------------------------------------------------------------------- a whole stream


class BreakingSource:
    """A source that fails after each batch, and waits after the last one."""

    backends = frozenset({"asyncio", "trio"})
    channels = frozenset({"trades"})
    resumes = False

    def __init__(self, clock: VirtualClock, *batches: list[Trade]) -> None:
        self.clock, self.batches = clock, list(batches)
        self.more = anyio.Event()

    async def run(self, deliver: Callable[[list[Event]], Awaitable[None]]) -> None:
        if not self.batches:
            await anyio.sleep_forever()
        await deliver(list(self.batches.pop(0)))
        await self.more.wait()
        self.more = anyio.Event()
        raise ConnectionLost("well", "it broke", None)

    def symbols_changed(self) -> None:
        """Do nothing."""


class Plugin:
    def __init__(self, source: BreakingSource) -> None:
        self.source = source

    @tapeloom.hooks.hookimpl
    def connect(self, feed: Feed) -> BreakingSource:
        return self.source


async def gaps_of(registry: Registry, source: BreakingSource, steer: Any) -> list[Gap]:
    """Return the gaps of a stream from *source*; *steer* controls the stream."""
    registry.register(Plugin(source), "well")
    stack = Stack(feeds=(FeedSpec("well", ("BTC/USD",), ("trades",)),))
    gaps: list[Gap] = []
    async with (
        source.clock.running(),
        tapeloom.open(stack, registry=registry, clock=source.clock, seed=1) as stream,
    ):
        consumer = stream.of(Gap)
        with anyio.fail_after(5):
            await steer(stream)
            await source.clock.sleep(60)
            stream.stop()
            gaps += [gap async for gap in consumer]
    return gaps


async def test_a_source_reports_the_next_gap_of_a_symbol_dropped_and_added_again(
    registry: Registry,
) -> None:
    source = BreakingSource(VirtualClock(), [trade(1)], [trade(2)], [trade(3)])

    async def steer(stream: tapeloom.Stream) -> None:
        await source.clock.sleep(1)
        await stream.drop("BTC/USD")
        await stream.add("BTC/USD")
        source.more.set()
        await source.clock.sleep(60)
        source.more.set()

    gaps = await gaps_of(registry, source, steer)

    assert [(gap.since, gap.until) for gap in gaps] == [(2 * SECOND, 3 * SECOND)]


async def test_a_gap_that_is_open_as_the_stream_ends_is_reported(registry: Registry) -> None:
    source = BreakingSource(VirtualClock(), [trade(1)])

    async def steer(stream: tapeloom.Stream) -> None:
        await source.clock.sleep(1)
        source.more.set()

    (gap,) = await gaps_of(registry, source, steer)

    assert (gap.symbol, gap.cause, gap.state) == ("BTC/USD", "disconnect", "unrecoverable")
    assert gap.since == SECOND
    assert gap.until > SECOND
