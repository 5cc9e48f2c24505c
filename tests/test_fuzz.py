"""Broken frames by the thousand, between good ones, through the whole pipeline of every venue.

``python tests/test_fuzz.py --frames 1000000`` is the long run, ``nox -s fuzz`` the same: each place in a
process of its own, whose memory is measured; then answers over REST, and tapes.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import pytest
import structlog
from attrs import evolve
from fuzz.answers import read_answers as read_http_answers
from fuzz.tapes import replay_all
from fuzz.venues import (
    ESCAPED,
    KEPT,
    PLACES,
    Report,
    Runner,
    VenueCase,
    alone,
    facts,
    fuzz,
    fuzz_venue,
    peak,
    simulated,
)
from tapeloom import Event, Reject, encode
from tapeloom.harness import ComposedFeed
from tapeloom.plugin import Frames
from tapeloom.plugin.bounds import reject_out_of_bounds
from tapeloom_simulator import EPOCH
from tapeloom_testing import virtual_backend
from tapeloom_testing.fuzz import mutants

SUITE = 20_000  # frames for each place in the suite
#: The most memory that a process may hold, in MB, and the most output for each byte of input.
MAX_MB, MAX_GROWTH = 150.0, 6.0


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_nothing_escapes_and_all_that_is_good_between_broken_frames_is_delivered(
    place: VenueCase,
) -> None:
    frames = simulated(place).kept
    report = fuzz_venue(place, frames, SUITE, seed=3)

    assert report.escaped == []
    assert facts(report.good) == facts(alone(place, frames))
    assert report.rules["unreadable_frame"] > SUITE / 4  # they were broken indeed
    assert report.rules["out_of_bounds"] > 10
    assert report.line_bytes < MAX_GROWTH * report.frame_bytes
    assert len(report.good) > 500


def fuzz_source(name: str, count: int, seed: int) -> tuple[Report, list[Event], float]:
    """Fuzz what the library of a plugin hands over.

    Return the report, the events of the good data alone, and the memory in MB before the broken data.
    """
    # Their libraries take long to import, and much memory.
    if name == "ib":
        from fuzz import gateway as source

        make = source.Gateway
    else:
        from fuzz import watch_calls as source

        make = source.WatchCalls
    chance, good = random.Random(seed), source.good()
    expected = fuzz(make().read, good, iter(()), len(good), chance, KEPT).good
    before = peak()
    report = fuzz(make().read, good, source.broken(chance), count, chance, KEPT)
    return report, expected, before


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(("name", "count"), [("ib", SUITE), ("ccxt", SUITE // 8)])
async def test_nothing_escapes_from_what_a_library_hands_over(
    name: str, count: int, anyio_backend: str
) -> None:
    report, expected, _ = fuzz_source(name, count, seed=3)

    assert facts(report.good) == facts(expected)
    assert len(expected) > 300
    assert sum(report.rules.values()) > count / 4
    assert report.rules["out_of_bounds"] > 10
    assert report.line_bytes < MAX_GROWTH * report.frame_bytes


def read_answers(place: VenueCase, count: int, seed: int) -> Counter[str]:
    """Read *count* broken answers over REST as answers and as lists of symbols; count what comes of it.

    Raises whatever is not a ValueError.
    """
    chance, runner = random.Random(seed), Runner(place)
    history = runner.plan.history
    assert history is not None
    answers = simulated(place).answers
    outcomes: Counter[str] = Counter()
    for body in islice(mutants([body for _, body in answers], chance), count):
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
    return outcomes


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_a_broken_answer_is_read_or_raises_what_it_may(place: VenueCase) -> None:
    outcomes = read_answers(place, 4000, seed=77)

    assert outcomes["refused"] > 1000
    assert outcomes["read"] > 10


def read_http(count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Run `fuzz.answers.read_answers` in virtual time."""
    name, options = virtual_backend("asyncio")
    return anyio.run(partial(read_http_answers, count, seed), backend=name, backend_options=options)


@pytest.mark.slow
def test_a_broken_answer_over_http_is_read_or_a_named_error() -> None:
    outcomes, escaped = read_http(100, seed=9)

    assert escaped == []
    assert outcomes["read"] > 3
    assert len(outcomes) > 2


@pytest.mark.slow
def test_a_broken_tape_is_replayed_or_ends_with_a_sentence(tmp_path: Path) -> None:
    place = PLACES[0]
    codes, wrong = replay_all(place, simulated(place).kept, tmp_path, 25, seed=5)
    structlog.reset_defaults()

    assert wrong == []
    assert codes[1] > 5  # they were broken indeed


def test_a_fault_of_ours_would_be_seen() -> None:
    place = PLACES[0]
    runner = Runner(place)
    frames = simulated(place).kept

    def broken(frames: Frames) -> list[Event]:
        raise KeyError("an adapter's mistake")

    runner.plan = evolve(runner.plan, parse=broken)
    runner.composed = ComposedFeed(runner.plan)
    rules = {event.rule for event in runner.feed(frames[:5]) if type(event) is Reject}

    assert rules == {"parser_error"}


# -------------------------------------------------------------------------------------- the long run

SOURCES = ("ib", "ccxt")


def long_run(name: str, count: int, seed: int) -> bool:
    """Fuzz one place or library; print a row, and return whether all held."""
    places = [place for place in PLACES if place.name == name]
    if places:
        frames = simulated(places[0]).kept
        expected = alone(places[0], frames)
        before = peak()
        report = fuzz_venue(places[0], frames, count, seed)
    else:
        report, expected, before = fuzz_source(name, count, seed)
    growth = report.line_bytes / report.frame_bytes
    whole = facts(report.good) == facts(expected)
    # ccxt alone takes more than is allowed; of it only the growth is measured.
    memory = peak() < MAX_MB if name != "ccxt" else peak() - before < MAX_MB / 3
    held = not report.escaped and whole and growth < MAX_GROWTH and memory
    print(
        f"{name:18} {report.frames:>10,} frames in {report.seconds:4.0f} s, {len(report.escaped)} escaped,"
        f" {len(report.good)} of {len(expected)} good events{'' if whole else ', NOT THE SAME'},"
        f" {peak():.0f} MB ({before:.0f} before), {growth:.2f} bytes out for one in;"
        f" {', '.join(f'{rule} {count:,}' for rule, count in report.rules.most_common(4))}",
        flush=True,
    )
    print("".join(f"    {text[:1000]}\n" for text in report.escaped[:10]), end="")
    if places:
        began = time.monotonic()
        outcomes = read_answers(places[0], count // 10, seed)
        held = held and peak() < MAX_MB
        print(
            f"{name:18} {count // 10:>10,} answers in {time.monotonic() - began:4.0f} s,"
            f" {dict(outcomes)}, {peak():.0f} MB",
            flush=True,
        )
    return held


def long_run_of_tapes(count: int, seed: int) -> bool:
    """Replay broken tapes; print a row, and return whether all held."""
    place = PLACES[0]
    frames, began = simulated(place).kept, time.monotonic()
    with TemporaryDirectory() as folder:
        codes, wrong = replay_all(place, frames, Path(folder), count, seed)
    seconds = time.monotonic() - began
    print(
        f"{'tapes':18} {count:>10,} in {seconds:4.0f} s, exit codes {dict(codes)}, {peak():.0f} MB"
    )
    print("\n".join(wrong[:20]), flush=True)
    return not wrong and peak() < MAX_MB


def long_run_of_answers(count: int, seed: int) -> bool:
    """Read broken answers over HTTP; print a row, and return whether all held."""
    began, before = time.monotonic(), peak()
    outcomes, escaped = read_http(count, seed)
    seconds = time.monotonic() - began
    print(
        f"{'HTTP':18} {count:>10,} answers in {seconds:4.0f} s, {dict(outcomes)}, {peak():.0f} MB"
        f" ({before:.0f} before)"
    )
    print("\n".join(escaped[:20]), flush=True)
    # An answer of 32 MiB, the most that is read, is held twice. A run alone begins with 45 MB.
    return not escaped and peak() - before < MAX_MB - 45


def main() -> int:
    """Run as many frames as are asked for; print rows for each place. Return 1 if something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000, help="for each place")
    parser.add_argument(
        "--only", default="", help='a place, such as "binance spot", or ib, ccxt, http, tapes'
    )
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    names = [*(place.name for place in PLACES), *SOURCES, "http", "tapes"]
    if not given.only:
        again = [sys.executable, __file__, "--frames", str(given.frames), "--seed", str(given.seed)]
        return max(subprocess.run([*again, "--only", name]).returncode for name in names)
    if given.only not in names:
        parser.error(f"expected one of {names}")
    # Log lines would be read by nobody.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(1800)  # what blocks is an error, too
    if given.only == "http":
        return 0 if long_run_of_answers(given.frames // 200, given.seed) else 1
    if given.only == "tapes":
        return 0 if long_run_of_tapes(given.frames // 2000, given.seed) else 1
    if given.only in SOURCES:

        async def run() -> bool:
            return long_run(given.only, given.frames, given.seed)

        return 0 if anyio.run(run) else 1
    return 0 if long_run(given.only, given.frames, given.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
