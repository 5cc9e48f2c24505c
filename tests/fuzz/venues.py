"""Venues that send frames: their good frames from the simulator, broken ones between them, what comes out."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import anyio
import tapeloom
import tapeloom_simulator as simulator
from attrs import define, field, frozen
from tapeloom import Event, FeedSpec, Registry, Reject, Stack, encode
from tapeloom._compose.composer import compose
from tapeloom._compose.plan import FeedPlan
from tapeloom.harness import ComposedFeed, RecordedFrame, Tape
from tapeloom.plugin import Request
from tapeloom_simulator import EPOCH
from tapeloom_testing import LoopClock, VirtualClock, captures, virtual_backend
from tapeloom_testing.fuzz import mutants

#: Rejects that stand for an exception of ours that nobody has caught where it belongs.
ESCAPED = ("parser_error", "stage_failed")
#: The symbol that is left alone, and the one whose data is broken, of the libraries.
KEPT, BROKEN = "BTC/USDT", "ETH/USDT"


@frozen
class VenueCase:
    """A venue and a market; the first symbol is left alone, the second one's frames are broken."""

    venue: str
    market: str
    symbols: tuple[str, str]
    natives: tuple[str, str]  #: how its frames name them
    channels: tuple[str, ...] = ("trades", "quotes", "book", "klines:1m", "ticker")
    settings: Mapping[str, Any] = field(factory=dict)

    @property
    def name(self) -> str:
        return f"{self.venue} {self.market}"

    def good(self, frames: Sequence[bytes]) -> list[bytes]:
        """Return the frames about the first symbol alone."""
        kept, broken = (name.encode() for name in self.natives)
        return [frame for frame in frames if kept in frame and broken not in frame]

    @property
    def stack(self) -> Stack:
        feed = FeedSpec(
            self.venue, self.symbols, self.channels, market=self.market,
            stages=("quality", "books", "bars"),
        )  # fmt: skip
        return Stack(feeds=(feed,), venues={self.venue: dict(self.settings)})


PLACES = [
    VenueCase("binance", "spot", ("BTC/USDT", "ETH/USDT"), ("BTCUSDT", "ETHUSDT")),
    VenueCase("binance", "usdm", ("BTC/USDT:USDT", "ETH/USDT:USDT"), ("BTCUSDT", "ETHUSDT")),
    VenueCase("bybit", "linear", ("BTC/USDT:USDT", "ETH/USDT:USDT"), ("BTCUSDT", "ETHUSDT")),
    VenueCase(
        "hyperliquid", "perp", ("BTC/USDC:USDC", "ETH/USDC:USDC"), ('"BTC"', '"ETH"'),
        ("trades", "quotes", "book:20", "klines:1m", "ticker"),
    ),
    VenueCase(
        "alpaca", "crypto", ("BTC/USD", "ETH/USD"), ("BTC/USD", "ETH/USD"),
        ("trades", "quotes", "book", "klines:1m"),
    ),
]  # fmt: skip


# ---------------------------------------------------------------------------------- good frames


class Listener:
    """Keeps what comes in: frames, replies among them, and answers over REST."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.answers: list[tuple[Request, bytes]] = []

    def frames(self, connection: int, recv: int, payloads: Sequence[bytes], size: int) -> None:
        self.kept += payloads

    def answer(self, recv: int, request: Request, body: bytes) -> None:
        self.answers.append((request, body))

    def fact(self, ts: int, monotonic: float, name: str, fields: object) -> None:
        """Facts are not broken here."""

    async def run(self) -> None:
        """Nothing has to be done from time to time."""


async def heard(place: VenueCase) -> Listener:
    """Return what a bit more than a minute of the simulated venue brings; one hole is in it."""
    fault = simulator.Fault(kind="disconnect", at=30, how="abrupt")
    async with simulator.serve(
        place.venue, symbols=place.symbols, seed=5, rate=10, faults=[fault]
    ) as sim:
        table = {**sim.settings, **place.settings}
        stack = Stack(feeds=place.stack.feeds, venues={place.venue: table})
        listener = Listener()
        async with tapeloom.open(stack, clock=LoopClock(EPOCH), seed=1) as stream:
            for runner in stream._feeds.values():
                runner.intake.taps.append(listener)
            with anyio.move_on_after(75):
                async for _ in stream:
                    pass
    return listener


HEARD: dict[str, Listener] = {}


def simulated(place: VenueCase) -> Listener:
    """Return `heard`, once for each process."""
    if place.name not in HEARD:
        name, options = virtual_backend("asyncio")
        run = partial(heard, place)
        HEARD[place.name] = anyio.run(run, backend=name, backend_options=options)
    return HEARD[place.name]


def recorded(place: VenueCase) -> list[bytes]:
    """Return the first real frames of each recording of that market, as of the symbol to break.

    Nothing where no recordings are at hand: the simulated ones are enough to find what they find.
    """
    folder = captures(Path(__file__).parents[2])
    if folder is None:
        return []
    kept, broken = (name.encode() for name in place.natives)
    tapes = [
        *folder.glob(f"{place.venue}_{place.market}/*.ws.jsonl*"),
        *folder.glob(f"{place.venue}/*.ws.jsonl*"),
    ]
    return [
        record.frame.replace(kept, broken).replace(kept.lower(), broken.lower())
        for tape in sorted(tapes)
        for record in islice(Tape(tape), 200)
        if isinstance(record, RecordedFrame)
    ]


# ------------------------------------------------------------------------------------ the run


@define
class Report:
    """What a run gave."""

    frames: int = 0
    frame_bytes: int = 0
    line_bytes: int = 0  #: of the events as lines of JSON
    seconds: float = 0.0
    rules: Counter[str] = field(factory=Counter)
    escaped: list[str] = field(factory=list)  #: the evidence of exceptions of ours
    good: list[Event] = field(factory=list)  #: of the symbol that was left alone


class Runner:
    """One feed, composed as for a stream, and fed by hand."""

    def __init__(self, place: VenueCase) -> None:
        # So late that no time of the venue is by chance that of our clock.
        self.clock = VirtualClock(EPOCH + 3_600_000_000_000)
        self.plan: FeedPlan = compose(place.stack, Registry(), self.clock, 1).plans[0]
        self.plan.queries.listen(lambda want: None)
        self.composed = ComposedFeed(self.plan)

    def feed(self, frames: Sequence[bytes]) -> list[Event]:
        self.clock.advance(0.01)
        return self.composed.process(self.composed.read(frames, self.clock.time_ns()).events)


def mixed(
    good: Sequence[bytes], bad: Iterator[bytes], count: int, chance: Random
) -> Iterator[list[bytes]]:
    """Yield batches of *count* frames in all: broken ones, and the good ones once each, in order."""
    every = max(1, count // max(1, len(good)))
    left, given = iter(good), 0
    while given < count:
        batch: list[bytes] = []
        for _ in range(chance.choice((1, 2, 7, 64, 256))):
            given += 1
            frame = next(left, None) if given % every == 0 else next(bad)
            if frame is not None:
                batch.append(frame)
        yield batch
    yield list(left)


def fuzz(
    read: Callable[[Sequence[bytes]], list[Event]],
    good: Sequence[bytes],
    bad: Iterator[bytes],
    count: int,
    chance: Random,
    kept: str,
) -> Report:
    """Feed *count* frames to *read*; return what came of it, with the events of the symbol *kept*."""
    report, began = Report(), time.monotonic()
    rules, lines, watched = report.rules, 0, WATCHED
    for batch in mixed(good, bad, count, chance):
        report.frames += len(batch)
        report.frame_bytes += sum(map(len, batch))
        for event in read(batch):
            line = encode(event)
            lines += len(line)
            assert line.isprintable(), line[:200]
            assert event.time, event.received  # they are dates
            if type(event) is Reject:
                rules[event.rule] += 1
                if event.rule in ESCAPED:
                    report.escaped.append(f"{event.rule}: {event.evidence}")
            elif event.symbol == kept and event.type in watched and event.recv:
                report.good.append(event)
    report.line_bytes, report.seconds = lines, time.monotonic() - began
    return report


def fuzz_venue(place: VenueCase, frames: Sequence[bytes], count: int, seed: int) -> Report:
    """Feed *count* frames of a venue, broken ones of the second symbol between good ones of the first."""
    chance = Random(seed)
    good = place.good(frames)
    other = [frame for frame in frames if place.natives[0].encode() not in frame]
    bad = mutants(other + recorded(place), chance)
    return fuzz(Runner(place).feed, good, bad, count, chance, place.symbols[0])


#: Bars of ours depend on the venue's clock, which a broken time may move: they are not compared.
WATCHED = frozenset({"trade", "quote", "book"})


def facts(events: Sequence[Event]) -> list[Any]:
    """What events say, but for when we received them."""
    return [
        (event.type, event.ts * (event.ts != event.recv), event.channel, getattr(event, "id", None),
         getattr(event, "price", None), getattr(event, "bid", None), getattr(event, "last_id", None))
        for event in events
        if event.type != "book" or event.origin != "built_from_book"  # type: ignore[attr-defined]
    ]  # fmt: skip


def alone(place: VenueCase, frames: Sequence[bytes]) -> list[Event]:
    """Return what the good frames give when nothing stands between them."""
    runner = Runner(place)
    events = [event for frame in place.good(frames) for event in runner.feed([frame])]
    return [event for event in events if event.symbol == place.symbols[0] and event.type in WATCHED]


def peak() -> float:
    """Return the most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
