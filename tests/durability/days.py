"""One day of a simulated market, stored by a process that is killed at random moments."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import anyio
import tapeloom_simulator as simulator
from attrs import Factory, define
from tapeloom.events import Event, Gap, Quote, Reject, Trade

from .stores import Store

SYMBOLS = ("BTC/USDT", "ETH/USDT")
#: Seconds that a process runs once it is connected, before it is killed; and the share of processes that
#: are killed before, with the seconds that they run.
LIFE, EARLY, EARLY_LIFE = (0.05, 2.0), 0.2, (0.2, 1.0)
#: Seconds that the last process has to store what is missing.
PATIENCE = 40.0
#: Trades a second, and the seconds in which a process starts. On a busy machine it takes longer; then the
#: market is as much slower, so that it does not end before there is a process to kill, and patience longer.
RATE, START = 200.0, 2.0


@define
class Day:
    """What a market sent, and what a store has of it."""

    kills: int = 0
    sent: int = 0  #: trades from the first that was stored to the last that was made
    stored: Counter[str] = Factory(Counter)  #: rows by type
    problems: list[str] = Factory(list)


def stack(store: Store, settings: dict[str, object], spool: str) -> str:
    """Return a stack with this store."""
    lines = [f"{key} = {value!r}".replace("'", '"') for key, value in settings.items()]
    return "\n".join(
        [
            "[[feed]]",
            'venue = "binance"',
            'market = "spot"',
            f"symbols = {list(SYMBOLS)!r}".replace("'", '"'),
            'channels = ["trades", "quotes"]',
            "[venue.binance]",
            *lines,
            "[[sink]]",
            *([f'spool = "{spool}"'] if spool else []),
            "max_batch_delay = 0.02",
            store.table(),
        ]
    )


async def run_day(
    store: Store,
    folder: Path,
    seed: int,
    *,
    spool: str,
    trades: int = 1600,
    patience: float = PATIENCE,
) -> Day:
    """Run a market of *trades* trades; kill the process that stores it; return what the store has."""
    chance, day = random.Random(seed), Day()
    slowness = max(1.0, await start_seconds(store, folder) / START)
    async with simulator.serve(
        "binance",
        symbols=SYMBOLS,
        seed=seed,
        trades=trades,
        rate=RATE / slowness,
        start="first_subscription",
        epoch=time.time_ns(),
    ) as sim:
        (folder / "stack.toml").write_text(stack(store, sim.settings, spool), encoding="utf-8")
        with ExitStack() as opened:
            log = opened.enter_context((folder / "log.txt").open("ab"))
            process = opened.enter_context(started(store, folder, log))
            await first_trade(store, sim, patience * slowness)
            while not sim.has_finished:
                await live(chance, sim)
                if sim.has_finished:
                    break
                day.kills += 1
                await store.around_kill(chance, process)
                process = opened.enter_context(started(store, folder, log))
            await finish(store, sim, process, patience * slowness)
        events = store.read()
        account(day, sim, events)
    return day


async def start_seconds(store: Store, folder: Path) -> float:
    """Return how long a process takes until it could open the store."""
    address = {"base_url": "http://127.0.0.1:1"}
    (folder / "check.toml").write_text(stack(store, address, ""), encoding="utf-8")
    command = [sys.executable, "-m", "tapeloom", "check", "check.toml"]
    began = time.monotonic()
    await anyio.run_process(command, cwd=folder, env={**os.environ, **store.environment})
    return time.monotonic() - began


async def first_trade(store: Store, sim: simulator.Simulation, patience: float) -> None:
    """Wait until the store has a trade: what was sent before is not known to be missing."""
    with anyio.move_on_after(patience):
        while not any(type(event) is Trade for event in store.read()):
            if sim.has_finished:
                break
            await anyio.sleep(0.1)


async def live(chance: random.Random, sim: simulator.Simulation) -> None:
    """Wait until a process is to be killed."""
    if chance.random() < EARLY:
        await anyio.sleep(chance.uniform(*EARLY_LIFE))
        return
    while not sim.connections and not sim.has_finished:  # noqa: ASYNC110 - there is no event to wait for
        await anyio.sleep(0.02)
    await anyio.sleep(chance.uniform(*LIFE))


@contextmanager
def started(store: Store, folder: Path, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a stream of the stack in *folder*, as a user does; kill it at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tapeloom", "run", "stack.toml"],
        cwd=folder,
        env={**os.environ, **store.environment},
        stdout=subprocess.DEVNULL,
        stderr=log,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def finish(
    store: Store, sim: simulator.Simulation, process: subprocess.Popen[bytes], patience: float
) -> None:
    """Let the last process store what is missing, and end it as a user does."""
    last = {symbol: sim.truth.trades(symbol)[-1].id for symbol in SYMBOLS}
    with anyio.move_on_after(patience):
        while process.poll() is None:
            await anyio.sleep(0.3)
            events = store.read()
            have = {(event.symbol, event.id) for event in events if type(event) is Trade}
            if last.items() <= have and not open_gaps(events):
                break
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def open_gaps(events: Sequence[Event]) -> list[Gap]:
    """Return the gaps of trades whose last report is not final."""
    latest: dict[object, Gap] = {}
    for event in events:
        if type(event) is Gap and event.channel == "trades":
            latest[event.identity] = event
    return [gap for gap in latest.values() if gap.state == "open"]


def account(day: Day, sim: simulator.Simulation, events: Sequence[Event]) -> None:
    """Compare what is stored with what was sent: trades complete, all else there or in a gap, once."""
    day.stored = Counter(event.type for event in events)
    for symbol in SYMBOLS:
        ids = Counter(
            event.id for event in events if type(event) is Trade and event.symbol == symbol
        )
        true = [trade.id for trade in sim.truth.trades(symbol)]
        first = min((event_id for event_id in ids if isinstance(event_id, int)), default=None)
        wanted = [event_id for event_id in true if first is None or event_id >= first]
        day.sent += len(wanted)
        day.problems += [
            f"{symbol}: trade {event_id} is missing" for event_id in wanted if not ids[event_id]
        ]
        day.problems += [
            f"{symbol}: trade {event_id} {count} times"
            for event_id, count in ids.items()
            if count > 1
        ]
        day.problems += [
            f"{symbol}: trade {event_id} was never made" for event_id in ids.keys() - set(true)
        ]
        day.problems += quotes(sim, symbol, events)
    day.problems += [f"rejected: {event}" for event in events if type(event) is Reject]
    # A status is about a run, and may come again.


def quotes(sim: simulator.Simulation, symbol: str, events: Sequence[Event]) -> list[str]:
    """Return what is wrong with the quotes of one symbol: twice, or missing outside of all gaps.

    The venue sends no time with a quote. Quotes are missing between two that are stored, or after the
    last one; a gap has to name them.
    """
    found = {
        event.sequence: event.ts
        for event in events
        if type(event) is Quote and event.symbol == symbol
    }
    counts = Counter(
        event.sequence for event in events if type(event) is Quote and event.symbol == symbol
    )
    problems = [f"{symbol}: quote {number} {n} times" for number, n in counts.items() if n > 1]
    gaps = [
        event
        for event in events
        if type(event) is Gap and event.symbol in ("", symbol) and event.channel in ("", "quotes")
    ]
    missing: list[int] = []
    before: int | None = None
    ends: list[tuple[int, float]] = []
    for sequence in [quote.sequence for quote in sim.truth.quotes(symbol)]:
        if sequence not in found:
            missing += [sequence] if before is not None else []
            continue
        if missing and before is not None:
            ends.append((before, found[sequence]))
        before, missing = found[sequence], []
    if missing and before is not None:
        ends.append((before, float("inf")))
    return problems + [
        f"{symbol}: quotes from {since} to {until} are missing and in no gap"
        for since, until in ends
        if not any(gap.since <= until and gap.until >= since for gap in gaps)
    ]
