"""From when to when a hole is, whatever clocks and habits the venue has; and that each is told."""

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
    """A trade at that second, seen a tenth later."""
    ts = round(at * SECOND)
    recv = ts + SECOND // 10 if seen is None else round(seen * SECOND)
    return Trade("acme", "BTC/USD", ts, recv, ONE, ONE, "buy", number, "trades")


def quote(at: float, seen: float) -> Quote:
    return Quote(
        "acme", "BTC/USD", round(at * SECOND), round(seen * SECOND), ONE, ONE, ONE, ONE, "quotes"
    )


class Rig:
    """Holes of two live subscriptions, driven as a session drives them."""

    def __init__(self) -> None:
        self.memory = LastSeen()
        self.holes = GapTracker("acme", self.memory)
        self.holes.live |= {TRADES, QUOTES}

    def read(self, *events: Event) -> list[Gap]:
        told = self.holes.announce(events) if self.holes.open else events
        self.memory.note(list(events))
        return [one for one in told if isinstance(one, Gap)]


def test_a_hole_of_trades_is_told_by_the_clock_of_the_trades() -> None:
    it = Rig()
    it.read(trade(10), quote(15, seen=10.2))  # the clock of the quotes is five seconds ahead
    it.holes.cut(11 * SECOND)
    (gap,) = it.read(trade(20))

    assert (gap.since, gap.until) == (10 * SECOND, 20 * SECOND)


def test_a_hole_of_trades_begins_with_the_last_one_of_the_symbol() -> None:
    it = Rig()
    it.read(trade(10))
    other = evolve(trade(15), symbol="ETH/USD")
    it.read(other)
    it.holes.cut(16 * SECOND)
    (gap,) = it.read(trade(20))

    assert gap.since == 10 * SECOND


def test_a_clock_that_was_set_back_is_believed_after_a_while() -> None:
    it = Rig()
    for at in range(10):
        it.read(trade(at + 5, seen=at))  # ahead of ours
    for at in range(10, 200):
        it.read(trade(at - 0.1, seen=at))
    it.holes.suspect(TRADES, 200 * SECOND, 0.0)
    (gap,) = it.read(trade(220))

    assert gap.since == round(199.9 * SECOND)


def test_what_had_stopped_before_the_connection_ended_is_not_known_until_then() -> None:
    it = Rig()
    it.read(trade(10))
    it.holes.cut(30 * SECOND, doubtful={TRADES: 9 * SECOND})
    (gap,) = it.read(trade(40))

    assert gap.since == round(8.9 * SECOND)


@pytest.mark.parametrize(("first", "last", "begins"), [(7, 12, "since"), ("a", "b", "until")])
def test_a_number_of_missing_trades_goes_with_the_time_since_the_last_one(
    first: int | str, last: int | str, begins: str
) -> None:
    it = Rig()
    it.read(trade(10, first))
    it.holes.cut(11 * SECOND)
    it.holes.close([TRADES], 21 * SECOND, 21.0)  # it lives again, and says nothing
    (vague,) = it.holes.quiet(30.0)
    it.holes.cut(31 * SECOND)
    (gap,) = it.read(trade(40, last))

    assert (vague.since, vague.until) == (10 * SECOND, round(20.9 * SECOND))
    assert gap.since == getattr(vague, begins)


def test_what_is_subscribed_to_anew_does_not_live_by_an_older_word() -> None:
    it = Rig()
    it.read(trade(10))
    it.holes.cut(11 * SECOND)
    it.holes.close([TRADES], 20 * SECOND, 20.0)
    it.holes.suspect(TRADES, 21 * SECOND, 0.0)

    assert it.holes.quiet(40.0) == []
    (gap,) = it.read(trade(50))
    assert (gap.since, gap.until) == (10 * SECOND, 50 * SECOND)


def test_what_was_dropped_is_forgotten_however_it_came() -> None:
    memory = LastSeen()
    memory.note(TradeBatch([trade(1, 5)], [0]))
    memory.note([trade(2, 6)])
    memory.forget([TRADES])

    assert memory.last(TRADES) is None


def test_numbered_trades_are_remembered_one_by_one_only_while_somebody_may_ask() -> None:
    memory = LastSeen()
    memory.note([trade(1, 5)])
    assert memory.known(TRADES, 0) == set()  # the last one tells all

    asking = memory.ask(TRADES, 2 * SECOND)
    memory.note([trade(2, 6), trade(1.5, 5)])
    memory.note(TradeBatch([trade(n, n + 4) for n in range(3, 20)], [0] * 17))
    assert asking() == set(range(6, 24))

    del asking
    memory.note([trade(30, 34)])
    assert 34 not in memory.known(TRADES, 0)


def test_named_trades_are_remembered_before_anybody_asks() -> None:
    memory = LastSeen()
    memory.note([trade(1, "a"), trade(2, "b")])
    memory.note(TradeBatch([trade(3, f"c{n}") for n in range(2000)], [0] * 2000))

    known = memory.ask(TRADES, 2 * SECOND)()
    assert 1000 < len(known) <= 1024  # the latest
    assert "c1999" in known


# ------------------------------------------------------------------------------- a whole stream


class Well:
    """A source that breaks as often as it has batches, and waits in the end."""

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
        raise ConnectionLost("well", "it is dry", None)

    def symbols_changed(self) -> None:
        """Take note."""


class Plugin:
    def __init__(self, well: Well) -> None:
        self.well = well

    @tapeloom.hooks.hookimpl
    def connect(self, feed: Feed) -> Well:
        return self.well


async def drawn(registry: Registry, well: Well, steer: Any) -> list[Gap]:
    """Return the gaps of a stream from the source, while somebody steers it."""
    registry.register(Plugin(well), "well")
    stack = Stack(feeds=(FeedSpec("well", ("BTC/USD",), ("trades",)),))
    gaps: list[Gap] = []
    async with (
        well.clock.running(),
        tapeloom.open(stack, registry=registry, clock=well.clock, seed=1) as stream,
    ):
        consumer = stream.of(Gap)
        with anyio.fail_after(5):
            await steer(stream)
            await well.clock.sleep(60)
            stream.stop()
            gaps += [gap async for gap in consumer]
    return gaps


async def test_a_source_that_was_told_to_drop_and_add_a_symbol_tells_its_next_hole(
    registry: Registry,
) -> None:
    well = Well(VirtualClock(), [trade(1)], [trade(2)], [trade(3)])

    async def steer(stream: tapeloom.Stream) -> None:
        await well.clock.sleep(1)
        await stream.drop("BTC/USD")
        await stream.add("BTC/USD")
        well.more.set()
        await well.clock.sleep(60)
        well.more.set()

    gaps = await drawn(registry, well, steer)

    assert [(gap.since, gap.until) for gap in gaps] == [(2 * SECOND, 3 * SECOND)]


async def test_a_hole_that_is_open_as_the_stream_ends_is_told(registry: Registry) -> None:
    well = Well(VirtualClock(), [trade(1)])

    async def steer(stream: tapeloom.Stream) -> None:
        await well.clock.sleep(1)
        well.more.set()

    (gap,) = await drawn(registry, well, steer)

    assert (gap.symbol, gap.cause, gap.state) == ("BTC/USD", "disconnect", "unrecoverable")
    assert gap.since == SECOND
    assert gap.until > SECOND
