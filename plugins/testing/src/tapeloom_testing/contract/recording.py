"""One run of a venue against its simulated other side: what was sent, what was delivered, the truth."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import structlog
import tapeloom
import tapeloom_simulator
from attrs import Factory, define
from tapeloom import StageSpec
from tapeloom.errors import ConnectionLost
from tapeloom.events import Book, Event, Gap, Status, Trade
from tapeloom.harness import websocket_dial
from tapeloom.hooks import hookimpl
from tapeloom.plugin import Dial, Endpoint, Feed, HistoryQuery, Link

from .declared import ContractViolation

if TYPE_CHECKING:
    from tapeloom import Consumer, Stream
    from tapeloom_simulator.server_api import MarketBar

    from .composed import Subject

__all__ = ["Plant", "Run", "record"]

_SNAPSHOTS = "contract-snapshots"
_SUBSCRIBED = re.compile(r"(\d+) subscriptions")
_MINUTE = 60_000_000_000
_ENOUGH = 5  # trades
_READY = 8.0  # seconds in which every subscription has to be agreed to
_DEADLINE = 40.0  # seconds for a whole run


@define
class Plant:
    """How a run is simulated. `serves` makes the server side, `table` the venue's settings."""

    serves: Callable[[Any], Any]
    table: Callable[[Any], Mapping[str, Any]]
    rate: float
    seconds: float
    speed: float
    settle: float = 65.0  #: market seconds after the last trade, in which bars close
    streams: int | None = None
    faults: Callable[[Any], list[Any]] = lambda _: []
    after: bool = False  #: run on until something came after a gap


@define
class Run:
    """What a run gave. `frames` are batches in the order of their arrival."""

    subject: Subject
    given: dict[str, Any] = Factory(dict)
    frames: list[list[bytes]] = Factory(list)
    sent: list[str] = Factory(list)
    lines: list[Line] = Factory(list)
    events: list[Event] = Factory(list)
    calm: int = 0  #: events before the simulation was stopped
    ready: bool = False
    logs: list[Any] = Factory(list)
    error: Exception | None = None
    began: int = 0
    ended: int = 0
    market: Any = None
    truth: Any = None
    books: dict[str, tuple[dict[Any, Any], dict[Any, Any]]] = Factory(dict)
    first: dict[str, tuple[Any, ...]] = Factory(dict)  #: the best bid and ask at the start
    delivered: anyio.Event = Factory(anyio.Event)

    def candles(self, symbol: str, interval: str) -> dict[int, MarketBar]:
        """Return the market's candles that have ended, by their start."""
        return {one.start: one for one in self.truth.closed_bars(symbol, interval)}


class Line:
    """One connection that is written down."""

    def __init__(self, endpoint: Endpoint, link: Link, run: Run) -> None:
        self.endpoint = endpoint
        self.ended = anyio.Event()
        self._link, self._run = link, run

    async def receive(self) -> list[bytes]:
        """Read, and write down."""
        try:
            payloads = await self._link.receive()
        except ConnectionLost:
            self.ended.set()
            raise
        if payloads:
            self._run.frames.append(payloads)
        return payloads

    async def send(self, text: str) -> None:
        """Write down, and send."""
        self._run.sent.append(text)
        await self._link.send(text)

    async def ping(self) -> None:
        """Send a ping."""
        await self._link.ping()


class _Snapshots:
    """A stage that asks for a book where updates come and no book has come."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._known: set[tuple[str, str]] = set()

    def __call__(self, events: list[Event]) -> list[Event]:
        for event in events:
            if type(event) is Gap:
                self._known.discard((event.symbol, event.channel))
            if type(event) is Book and (event.symbol, event.channel) not in self._known:
                self._known.add((event.symbol, event.channel))
                if event.kind == "delta":
                    self._feed.query_history(HistoryQuery("book", event.symbol, event.channel))
        return events


class _Plugin:
    @hookimpl
    def aggregate(self, feed: Feed) -> _Snapshots:
        return _Snapshots(feed)


async def record(subject: Subject, plant: Plant) -> Run:
    """Run *subject* against its simulated venue, from the first subscription to the last frame."""
    run = Run(subject)
    options: dict[str, Any] = {
        "symbols": subject.symbols, "seed": 3, "rate": plant.rate, "speed": plant.speed,
        "start": "manual", "slow": "wait", "faults": plant.faults(tapeloom_simulator),
        "epoch": (time.time_ns() // _MINUTE + 1) * _MINUTE,
    }  # fmt: skip
    if not plant.after:
        options["trades"] = max(1, round(plant.rate * plant.seconds))
    with structlog.testing.capture_logs() as logs, anyio.move_on_after(_DEADLINE) as scope:
        async with (
            tapeloom_simulator.serve(plant.serves, **options) as sim,
            websocket_dial() as base,
        ):
            run.given = dict(plant.table(sim))
            async with _opened(subject, run, base) as stream:
                await _follow(run, stream, sim, plant)
    run.logs = logs
    if scope.cancelled_caught:
        raise ContractViolation(
            f"after {_DEADLINE:g} s the run of market {subject.market!r} had not come to its end:"
            f" {len(run.events)} events, {len(run.frames)} frames; {run.error or 'no error'}"
        )
    return run


@asynccontextmanager
async def _opened(subject: Subject, run: Run, base: Dial) -> AsyncIterator[Stream]:
    @asynccontextmanager
    async def dial(endpoint: Endpoint) -> AsyncIterator[Link]:
        async with base(endpoint) as link:
            line = Line(endpoint, link, run)
            run.lines.append(line)
            try:
                yield line
            finally:
                line.ended.set()

    registry = subject.registry()
    registry.register(_Plugin(), _SNAPSHOTS)
    with subject.environment():
        stack = subject.stack(run.given, stages=[StageSpec(_SNAPSHOTS, _SNAPSHOTS)])
        stream = tapeloom.open(stack, registry=registry, dial=dial, seed=0)
    async with stream:
        yield stream


async def _follow(run: Run, stream: Stream, sim: Any, plant: Plant) -> None:
    """Begin when everything is subscribed to, end when everything has been read."""
    consumer: Consumer[Event] = stream.consume(policy="block")
    async with anyio.create_task_group() as tasks:
        run.began = time.time_ns()
        tasks.start_soon(_collect, run, consumer)
        run.ready = await _subscribed(run, stream, sim, plant)
        _look(run, sim)
        sim.begin()
        if plant.after:
            await _beyond_the_end(run)
        else:
            await _settled(sim, plant, run)
        await _shut(run, sim)
        run.ended = time.time_ns()
        run.error = stream.error
        stream.stop()
        with anyio.move_on_after(2):
            await run.delivered.wait()
        tasks.cancel_scope.cancel()
    run.books = {symbol: sim.truth.book(symbol) for symbol in run.subject.symbols}


async def _collect(run: Run, consumer: Consumer[Event]) -> None:
    try:
        while batch := await consumer.batch():
            run.events += batch
    except tapeloom.errors.TapeloomError as error:
        run.error = error
    run.delivered.set()


async def _subscribed(run: Run, stream: Stream, sim: Any, plant: Plant) -> bool:
    """Wait until the venue has agreed to everything, or the simulator sees all of it."""
    plan = stream.plans[0]
    wanted = len(plan.feed.symbols) * len(plan.feed.channels)
    streams = plant.streams or wanted
    with anyio.move_on_after(_READY):
        while not run.delivered.is_set():
            if _agreed(run) >= wanted or len(sim.truth.sent) >= streams:
                return True
            await anyio.sleep(0.005)
    return False


def _agreed(run: Run) -> int:
    """Return to how many subscriptions the venue has agreed, as the stream tells."""
    told = [one.detail for one in run.events if type(one) is Status and one.state == "subscribed"]
    return sum(int(match[1]) for each in told if (match := _SUBSCRIBED.search(each)))


def _look(run: Run, sim: Any) -> None:
    """Keep what the market is, and how it begins."""
    run.market, run.truth = sim.market, sim.truth
    for symbol in run.subject.symbols:
        pit = sim.market.instruments[symbol]
        bid, bid_size, ask, ask_size = pit.top_of_book()
        run.first[symbol] = (bid * pit.tick, bid_size * pit.lot, ask * pit.tick, ask_size * pit.lot)


async def _settled(sim: Any, plant: Plant, run: Run) -> None:
    """Wait for the last trade, and until what follows from it has been said."""
    with anyio.move_on_after(_DEADLINE * 0.8):
        await sim.finished()
        until = sim.market.now + int(plant.settle * 1_000_000_000)
        while sim.market.now < until and not run.delivered.is_set():  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def _beyond_the_end(run: Run) -> None:
    """Wait until the first connection has ended, and enough has come over the next one."""
    at = None
    patience = _DEADLINE / 3 if run.truth.connections else 0
    with anyio.move_on_after(patience):
        while not run.delivered.is_set():
            if at is None and _over(run):
                at = len(run.events)
            since = run.events[at:] if at is not None else []
            came = Counter(one.symbol for one in since if type(one) is Trade)
            if all(came[symbol] >= _ENOUGH for symbol in run.subject.symbols):
                return
            await anyio.sleep(0.01)


def _over(run: Run) -> bool:
    """Say whether the first connection has ended, and another goes on."""
    if run.lines:
        return len(run.lines) > 1 and run.lines[0].ended.is_set()
    return any(type(one) is Status and one.state == "reconnecting" for one in run.events)


async def _shut(run: Run, sim: Any) -> None:
    """Stop the simulation; what was sent before its end has then been read."""
    lines = list(run.lines)
    run.calm = len(run.events)
    await sim.stop()
    with anyio.move_on_after(2):
        for line in lines:
            await line.ended.wait()
    if not lines:  # a Source of its own reads it, or asks for it
        await anyio.sleep(0.3)
