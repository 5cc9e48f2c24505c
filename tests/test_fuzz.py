"""Broken frames by the thousand, between good ones, through the whole pipeline of every venue.

``python tests/test_fuzz.py --frames 1000000`` is the long run, ``nox -s fuzz`` the same.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest
import structlog
import tapeloom
import tapeloom_simulator as simulator
from attrs import define, field, frozen
from tapeloom import Event, FeedSpec, Registry, Reject, Stack, encode
from tapeloom._compose.composer import compose
from tapeloom._compose.plan import FeedPlan
from tapeloom.harness import ComposedFeed, RecordedFrame, Tape
from tapeloom.plugin import Frames, Request
from tapeloom.plugin.bounds import reject_out_of_bounds
from tapeloom_simulator import EPOCH
from tapeloom_testing import LoopClock, VirtualClock, captures, virtual_backend
from tapeloom_testing.fuzz import mutants

SUITE = 20_000  # frames for each place in the suite


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
    folder = captures(Path(__file__).parents[1])
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


def fuzz(place: VenueCase, frames: Sequence[bytes], count: int, seed: int) -> Report:
    """Feed *count* frames; return what came of it. Whatever escapes is raised with its seed."""
    chance = Random(seed)
    kept, broken = (name.encode() for name in place.natives)
    good = [frame for frame in frames if kept in frame and broken not in frame]
    other = [frame for frame in frames if kept not in frame] + recorded(place)
    runner, report = Runner(place), Report()
    began = time.monotonic()
    for batch in mixed(good, mutants(other, chance), count, chance):
        report.frames += len(batch)
        report.frame_bytes += sum(map(len, batch))
        for event in runner.feed(batch):
            line = encode(event)
            report.line_bytes += len(line)
            assert line.isprintable(), line[:200]
            assert event.received >= event.time.replace(year=1970)
            if type(event) is Reject:
                report.rules[event.rule] += 1
            elif event.symbol == place.symbols[0] and event.type in WATCHED and event.recv:
                report.good.append(event)
    report.seconds = time.monotonic() - began
    return report


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
    kept, broken = (name.encode() for name in place.natives)
    runner = Runner(place)
    events: list[Event] = []
    for frame in frames:
        if kept in frame and broken not in frame:
            events += runner.feed([frame])
    return [one for one in events if one.symbol == place.symbols[0] and one.type in WATCHED]


# ---------------------------------------------------------------------------------- what must hold


#: Rejects that stand for an exception of ours that nobody has caught where it belongs.
ESCAPED = ("parser_error", "stage_failed")


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_nothing_escapes_and_all_that_is_good_between_broken_frames_is_delivered(
    place: VenueCase,
) -> None:
    frames = simulated(place).kept
    report = fuzz(place, frames, SUITE, seed=3)

    assert {rule: report.rules[rule] for rule in ESCAPED} == dict.fromkeys(ESCAPED, 0)
    assert facts(report.good) == facts(alone(place, frames))
    assert report.rules["unreadable_frame"] > SUITE / 4  # they were broken indeed
    assert report.rules["out_of_bounds"] > 10
    assert report.line_bytes < 6 * report.frame_bytes  # what comes out is bounded by what comes in
    assert len(report.good) > 500


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_a_broken_answer_is_read_or_raises_what_it_may(place: VenueCase) -> None:
    chance, runner = Random(77), Runner(place)
    history = runner.plan.history
    assert history is not None
    answers = simulated(place).answers
    outcomes: Counter[str] = Counter()
    for body in islice(mutants([body for _, body in answers], chance), 4000):
        request, _ = chance.choice(answers)
        for read in (partial(history.read_answer, request, recv=EPOCH), history.read_listing):
            try:
                found = read(body=body)
            except ValueError:
                outcomes["refused"] += 1
            else:
                outcomes["read"] += 1
                if read != history.read_listing:
                    events = runner.composed.process(reject_out_of_bounds(found))
                    rules = {getattr(event, "rule", "") for event in events}
                    assert rules.isdisjoint(ESCAPED)
                    assert all(len(encode(event)) < 2000 + 6 * len(body) for event in events)

    assert outcomes["refused"] > 1000
    assert outcomes["read"] > 10


def test_a_fault_of_ours_would_be_seen() -> None:
    place = PLACES[0]
    runner = Runner(place)
    frames = simulated(place).kept

    def broken(frames: Frames) -> list[Event]:
        raise KeyError("an adapter's mistake")

    runner.plan.parse = broken
    runner.composed = ComposedFeed(runner.plan)
    rules = {event.rule for event in runner.feed(frames[:5]) if type(event) is Reject}

    assert rules == {"parser_error"}


# -------------------------------------------------------------------------------------- the long run


def main() -> int:
    """Run as many frames as are asked for; print a row for each place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000, help="for each place")
    parser.add_argument("--venue", default="", help="only places whose name holds this")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(50)
    )  # it would be read by nobody
    failed = False
    for place in PLACES:
        if given.venue not in place.name:
            continue
        frames = simulated(place).kept
        expected = facts(alone(place, frames))
        fuzz(place, frames, SUITE, given.seed)
        before = peak()
        report = fuzz(place, frames, given.frames, given.seed)
        whole = facts(report.good) == expected
        escaped = sum(report.rules[rule] for rule in ESCAPED)
        failed = failed or escaped > 0 or not whole
        print(
            f"{place.name:18} {report.frames:>10,} frames in {report.seconds:4.0f} s, {escaped} escaped,"
            f" {len(report.good)} of {len(expected)} good events,"
            f" {peak() - before:+.1f} MB;"
            f" {', '.join(f'{rule} {count:,}' for rule, count in report.rules.most_common(4))}"
        )
    return 1 if failed else 0


def peak() -> float:
    """Return the most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
