"""A stream under watch: who consumes it, what is changed while it runs, and what came of it."""

from __future__ import annotations

import gc
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random
from typing import IO

import anyio
import tapeloom
import tapeloom_chaos as chaos
from attrs import define, field
from soak.held import memory
from soak.places import CHANGES, QUIET, Place
from tapeloom import Event, Gap, Reject, Stack, Status, Trade, encode
from tapeloom.errors import FeedError, SymbolError
from tapeloom.plugin import Clock
from tapeloom_simulator import count_reports


async def ended(consumer: tapeloom.Consumer[Event]) -> AsyncIterator[list[Event]]:
    """Yield what comes; what ends the stream is read off the stream."""
    with suppress(FeedError, SymbolError):
        while batch := await consumer.batch():
            yield batch


@define
class Consumed:
    """What one consumer got, and what it was told that it had missed."""

    name: str
    pause: float = 0.0  #: between two reads
    got: int = 0
    missed: int = 0

    async def run(self, consumer: tapeloom.Consumer[Event], clock: Clock) -> None:
        async for batch in ended(consumer):
            for event in batch:
                if type(event) is Gap and event.cause == "overflow":
                    self.missed += event.missing or 0
                else:
                    self.got += 1
            if self.pause and not consumer.queue.closed:
                await clock.sleep(self.pause)


@define
class Watched:
    """What came of a run, but for what stands in the files."""

    consumers: list[Consumed]
    began: int
    ended: int = 0
    #: From when to when (0: to the end) each symbol of a venue was streamed.
    lives: dict[tuple[str, str], list[list[int]]] = field(factory=dict)
    memory: list[tuple[float, float]] = field(factory=list)  #: seconds, MB
    told: defaultdict[str, Counter[str]] = field(factory=lambda: defaultdict(Counter))  #: by venue
    counters: dict[str, Counter[str]] = field(factory=dict)  #: by feed
    overtaken: list[float] = field(factory=list)  #: the times at which `chaos` let one be overtaken
    left: list[str] = field(factory=list)
    error: str = ""


#: What the ledger asks for.
KEPT = (Trade, Gap, Reject, Status)


async def watch(
    places: Sequence[Place], stack: Stack, folder: Path, seconds: float, seed: int, clock: Clock
) -> Watched:
    """Stream for so long, with consumers of all kinds; what the ledger asks for goes to files."""
    kept, slow = Consumed("block"), [Consumed("drop_oldest", 0.5), Consumed("conflate", 0.7)]
    watched = Watched([kept, *slow], clock.time_ns())
    async with tapeloom.open(stack, clock=clock, seed=seed) as stream:
        consumer = stream.consume(size=50_000, policy="block")
        async with anyio.create_task_group() as group:
            for one in slow:
                other = stream.consume(size=2000, policy=one.name)
                group.start_soon(one.run, other, clock)
            group.start_soon(keep, consumer, kept, watched, folder)
            group.start_soon(change, stream, places, watched, seconds, seed, clock)
            group.start_soon(weigh, watched, seconds, clock)
            await clock.sleep(seconds)
            watched.ended = clock.time_ns()
            watched.error = str(stream.error or "")
            stream.stop()
        watched.counters = {plan.feed.name: Counter(plan.feed.counters) for plan in stream.plans}
        watched.overtaken = [
            one.at for one in chaos.injected_faults(stream) if one.fault == "reorder"
        ]
    return watched


async def keep(
    consumer: tapeloom.Consumer[Event], kept: Consumed, watched: Watched, folder: Path
) -> None:
    """Write down what the ledger asks for, venue by venue."""
    with ExitStack() as exits:
        files: dict[str, IO[str]] = {}
        async for batch in ended(consumer):
            kept.got += len(batch)
            watched.told[batch[0].venue] += count_reports(batch)
            for event in batch:
                if type(event) in KEPT:
                    venue = event.venue
                    if venue not in files:
                        path = folder / f"{venue}.events"
                        files[venue] = exits.enter_context(path.open("w", encoding="utf-8"))
                    print(encode(event), file=files[venue])


async def change(
    stream: tapeloom.Stream,
    places: Sequence[Place],
    watched: Watched,
    seconds: float,
    seed: int,
    clock: Clock,
) -> None:
    """Drop symbols and add them again, at random; in the end all are streamed."""
    chance, streamed, gone = Random(seed), {}, []
    for place in places:
        streamed[place.name] = list(place.symbols)
        for symbol in place.symbols:
            watched.lives[place.venue, symbol] = [[watched.began, 0]]
    end = clock.monotonic() + seconds - QUIET
    while True:
        await clock.sleep(chance.expovariate(1 / CHANGES))
        last = clock.monotonic() > end
        while gone and (last or chance.random() < 0.5):
            place, symbol = gone.pop(chance.randrange(len(gone)))
            watched.lives[place.venue, symbol].append([clock.time_ns(), 0])
            streamed[place.name].append(symbol)
            await stream.add(symbol, feed=place.name)
        if last:
            return
        place = chance.choice(places)
        if len(streamed[place.name]) > len(place.symbols) / 2:
            symbol = streamed[place.name].pop(chance.randrange(len(streamed[place.name])))
            watched.lives[place.venue, symbol][-1][1] = clock.time_ns()
            gone.append((place, symbol))
            await stream.drop(symbol, feed=place.name)


async def weigh(watched: Watched, seconds: float, clock: Clock) -> None:
    """Write down how much memory is in use, a hundred times."""
    for number in range(100):
        gc.collect()  # when it is due is chance
        watched.memory.append((number * seconds / 100, memory()))
        await clock.sleep(seconds / 100)
