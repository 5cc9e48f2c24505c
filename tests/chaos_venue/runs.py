"""Streams from chaos venues with tapeloom, as a user does, and gives the account of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from random import Random

import anyio
import tapeloom
from tapeloom import Event, FeedSpec, Stack
from tapeloom.plugin import Clock

from .faults import FAULTS, SINGLE, Scene
from .ledger import Row, View, accounts
from .market import Market
from .venue import Venue
from .wires import Binance, Bybit, Hyperliquid, Wire

#: Mean orders per second of the symbols of each venue; an order is one trade or several.
_RATES = (5.0, 2.0, 0.5)
#: Seconds before the first fault, in which the stream learns how often its symbols trade.
_FIRST_SECONDS = 15.0
#: Seconds after the last reset, in which the client comes back and fetches what it missed.
_LAST_SECONDS = 20.0
#: Seconds that the last phase of a long run takes, with all that follows it.
_END_SECONDS = 70.0
#: How many pairs of streams a long run has; a pair is one with `quality` and one without.
_PAIRS = 6
#: Stages of the streams: with `quality` and without.
STAGES = {"quality": ("quality", "bars"), "plain": ("bars",)}


class SettableClock:
    """The clock of a stream; its wall clock can be set."""

    def __init__(self, clock: Clock) -> None:
        self.shift_ns = 0
        self._clock = clock

    def time_ns(self) -> int:
        """Return the time in ns since 1970."""
        return self._clock.time_ns() + self.shift_ns

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for some seconds."""
        await self._clock.sleep(seconds)


class RealClock:
    """The machine's clock."""

    time_ns = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(anyio.sleep)


def wires(seed: int, stages: str) -> list[Wire]:
    """Return the three venues; of Bybit one market or the other."""
    is_spot = (seed + len(STAGES[stages])) % 2 == 0
    return [Binance(), Bybit("spot" if is_spot else "linear"), Hyperliquid()]


async def run(
    stages: str, phases: Iterable[tuple[str, float, float]], seed: int, clock: Clock
) -> list[Row]:
    """Stream through some phases: the name of each fault, its seconds, and those of quiet after it.

    The venues go by *clock*, the stream by one that a fault can set. Returns a row for each venue and
    fault.
    """
    venues = []
    async with AsyncExitStack() as exits:
        for place, wire in enumerate(wires(seed, stages)):
            own_seed = seed * 1000 + place
            market = Market(
                wire.symbols(_RATES), wire.ids, own_seed, lambda: clock.time_ns() // 1_000_000
            )
            venue = Venue(wire, market, own_seed)
            venues.append(await exits.enter_async_context(venue.serving()))
        events = await _stream(venues, stages, phases, seed, SettableClock(clock))
    rows = []
    for venue in venues:
        wire = venue.wire
        has_quality = "quality" in STAGES[stages]
        view = View(
            compares_numbers=has_quality and wire.ids == "numbers",
            removes_repeats=has_quality or wire.removes_repeats,
        )
        name = f"{wire.plugin}/{wire.market_name}"
        ours = [event for event in events if event.venue == wire.plugin]
        rows += accounts((name, stages), venue.market, venue.marks, view, ours)
    return rows


async def _stream(
    venues: Sequence[Venue],
    stages: str,
    phases: Iterable[tuple[str, float, float]],
    seed: int,
    clock: SettableClock,
) -> list[Event]:
    """Run the stream and the faults; return all events."""
    feeds = [
        FeedSpec(
            venue.wire.plugin,
            [symbol.unified for symbol in venue.market.symbols.values()],
            ("trades",),
            market=venue.wire.market_name,
            stages=STAGES[stages],
        )
        for venue in venues
    ]
    stack = Stack(
        feeds=tuple(feeds),
        stages={"bars": {"every": ["1s", "5s"]}},
        venues={venue.wire.plugin: {"base_url": venue.url} for venue in venues},
    )
    events: list[Event] = []

    async def collect() -> None:
        async for batch in stream.batches():
            events.extend(batch)

    async with tapeloom.open(stack, clock=clock, seed=seed) as stream:
        collecting = asyncio.create_task(collect())
        await asyncio.sleep(_FIRST_SECONDS)
        for place, (name, seconds, quiet) in enumerate(phases):
            for venue in venues:
                venue.market.phase = name
            scenes = [
                Scene(venue, seed + 100 * place + number, seconds, clock)
                for number, venue in enumerate(venues)
            ]
            await asyncio.gather(*(scene.play(FAULTS[name]) for scene in scenes))
            await asyncio.sleep(quiet)
        # A short silence cannot be told from a quiet market; after a reset all that was lost is known.
        for venue in venues:
            for link in venue.links:
                link.reset()
        await asyncio.sleep(_LAST_SECONDS)
        for venue in venues:
            venue.market.is_open = False
        await asyncio.sleep(1.0)
        stream.stop()
        await collecting
    return events


def long_phases(seconds: float, seed: int, clock: Clock) -> Iterator[tuple[str, float, float]]:
    """Yield phases for about so many seconds from now: all faults in turn, and between them `mixed`."""
    random, until = Random(seed), clock.monotonic() + seconds - _END_SECONDS
    while clock.monotonic() < until:
        names = [*SINGLE]
        random.shuffle(names)
        for place, name in enumerate(names):
            if clock.monotonic() < until:
                fault = "mixed" if place % 4 == 3 else name
                yield fault, random.uniform(8.0, 16.0), random.uniform(4.0, 12.0)
    yield "mixed", 10.0, 30.0


async def run_long(seconds: float, seed: int) -> list[Row]:
    """Run several pairs of streams at once in real time; each pair has an order of faults of its own."""
    clock, seeds = RealClock(), range(seed * _PAIRS, (seed + 1) * _PAIRS)
    runs = [
        run(stages, long_phases(seconds, own_seed, clock), own_seed, clock)
        for own_seed in seeds
        for stages in STAGES
    ]
    merged: dict[tuple[str, str, str], Row] = {}
    for rows in await asyncio.gather(*runs):
        for row in rows:
            names = row.venue, row.stages, row.fault
            merged.setdefault(names, Row(*names)).add(row)
    return [merged[names] for names in sorted(merged)]
