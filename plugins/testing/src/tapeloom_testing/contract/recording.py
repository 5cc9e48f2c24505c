"""Runs a venue feed against its simulated server and records frames, events and market data."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
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
from tapeloom.plugin import Dial, Endpoint, Feed, HistoryQuery, Link, channel_parts
from tapeloom.units import duration_ns

from .declared import ContractViolation

if TYPE_CHECKING:
    from tapeloom import Consumer, Stream
    from tapeloom_simulator.server_api import MarketBar

    from .composed import Subject

__all__ = ["Plant", "Run", "bar_length", "record"]

#: Name of the plugin and stage that requests book snapshots.
_SNAPSHOTS = "contract-snapshots"
#: Finds the number of subscriptions in the detail of the status `subscribed`.
_SUBSCRIBED = re.compile(r"(\d+) subscriptions")
#: One minute in ns.
_MINUTE = 60_000_000_000
#: Trades per symbol on the new connection that show that the feed goes on.
_ENOUGH = 5
#: Seconds within which the venue must acknowledge every subscription.
_READY = 8.0
#: Seconds for a whole run.
_DEADLINE = 40.0


@define
class Plant:
    """Settings of a simulated run. `serves` makes the server, `table` the venue's settings."""

    serves: Callable[[Any], Any]
    table: Callable[[Any], Mapping[str, Any]]
    rate: float
    seconds: float
    speed: float
    settle: float = 65.0  #: market seconds to wait after the last trade, so that bars close
    streams: int | None = None
    faults: Callable[[Any], list[Any]] = lambda _: []
    after: bool = False  #: run until trades were delivered after a reconnect


@define
class Run:
    """The results of a run. `frames` holds the batches of payloads in order of arrival."""

    subject: Subject
    given: dict[str, Any] = Factory(dict)
    frames: list[list[bytes]] = Factory(list)
    sent: list[str] = Factory(list)
    lines: list[Line] = Factory(list)
    events: list[Event] = Factory(list)
    count_before_stop: int = 0  #: number of events delivered before the simulation was stopped
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
        """Return the market's closed bars by their start in ns."""
        return {bar.start: bar for bar in self.truth.closed_bars(symbol, interval)}


class Line:
    """A link that records the payloads it receives and the texts it sends."""

    def __init__(self, endpoint: Endpoint, link: Link, run: Run) -> None:
        self.endpoint = endpoint
        self.ended = anyio.Event()
        self._link, self._run = link, run

    async def receive(self) -> list[bytes]:
        """Receive payloads and record them."""
        try:
            payloads = await self._link.receive()
        except ConnectionLost:
            self.ended.set()
            raise
        if payloads:
            self._run.frames.append(payloads)
        return payloads

    async def send(self, text: str) -> None:
        """Record a text and send it."""
        self._run.sent.append(text)
        await self._link.send(text)

    async def ping(self) -> None:
        """Send a ping."""
        await self._link.ping()


class _Snapshots:
    """A stage that requests the current book over REST when a book starts with a delta.

    A delta alone is no book. A book starts again after a gap.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._known: set[tuple[str, str]] = set()  # symbol and channel of books that have started

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
        "epoch": _epoch(subject.channels),
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
            f"after {_DEADLINE:g} s the run of market {subject.market!r} had not ended:"
            f" {len(run.events)} events, {len(run.frames)} frames; {run.error or 'no error'}"
        )
    return run


def _epoch(channels: Sequence[str]) -> int:
    """Return when the market begins: soon, and a minute before the longest bar ends.

    So bars of every length up to an hour close in each run, whatever the time of day.
    """
    lengths = [bar_length(channel) for channel in channels]
    length = max([_MINUTE, *(length for length in lengths if length <= 60 * _MINUTE)])
    return (time.time_ns() + _MINUTE) // length * length + length - _MINUTE


def bar_length(channel: str) -> int:
    """Return the length of a channel's bars in ns; 0 if it has none, or if it is not fixed."""
    try:
        return duration_ns(channel_parts(channel)[1])
    except ValueError:  # no bars, or bars of a month
        return 0


@asynccontextmanager
async def _opened(subject: Subject, run: Run, base: Dial) -> AsyncIterator[Stream]:
    """Open the stream of *subject*; its connections are recorded in *run*."""

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
    """Start the market once all is subscribed to, and stop the stream once all data was read."""
    consumer: Consumer[Event] = stream.consume(policy="block")
    async with anyio.create_task_group() as tasks:
        run.began = time.time_ns()
        tasks.start_soon(_collect, run, consumer)
        run.ready = await _subscribed(run, stream, sim, plant)
        _record_market(run, sim)
        sim.begin()
        if plant.after:
            await _reconnected(run)
        else:
            await _settled(sim, plant, run)
        await _stop_simulation(run, sim)
        run.ended = time.time_ns()
        run.error = stream.error
        stream.stop()
        with anyio.move_on_after(2):
            await run.delivered.wait()
        tasks.cancel_scope.cancel()
    run.books = {symbol: sim.truth.book(symbol) for symbol in run.subject.symbols}


async def _collect(run: Run, consumer: Consumer[Event]) -> None:
    """Add the delivered events to the run until the stream ends."""
    try:
        while batch := await consumer.batch():
            run.events += batch
    except tapeloom.errors.TapeloomError as error:
        run.error = error
    run.delivered.set()


async def _subscribed(run: Run, stream: Stream, sim: Any, plant: Plant) -> bool:
    """Return whether, within `_READY` seconds, all subscriptions are acknowledged or are served."""
    plan = stream.plans[0]
    wanted = len(plan.feed.symbols) * len(plan.feed.channels)
    streams = plant.streams or wanted
    with anyio.move_on_after(_READY):
        while not run.delivered.is_set():
            if _acknowledged(run) >= wanted or len(sim.truth.sent) >= streams:
                return True
            await anyio.sleep(0.005)
    return False


def _acknowledged(run: Run) -> int:
    """Return the number of acknowledged subscriptions, from the statuses `subscribed`."""
    details = [
        event.detail
        for event in run.events
        if type(event) is Status and event.state == "subscribed"
    ]
    return sum(int(match[1]) for detail in details if (match := _SUBSCRIBED.search(detail)))


def _record_market(run: Run, sim: Any) -> None:
    """Store the market, its recorded data, and each symbol's first top of book in *run*."""
    run.market, run.truth = sim.market, sim.truth
    for symbol in run.subject.symbols:
        instrument = sim.market.instruments[symbol]
        bid, bid_size, ask, ask_size = instrument.top_of_book()
        run.first[symbol] = (
            bid * instrument.tick,
            bid_size * instrument.lot,
            ask * instrument.tick,
            ask_size * instrument.lot,
        )


async def _settled(sim: Any, plant: Plant, run: Run) -> None:
    """Wait for the last trade and for `settle` market seconds, in which the last bars close."""
    with anyio.move_on_after(_DEADLINE * 0.8):
        await sim.finished()
        until = sim.market.now + int(plant.settle * 1_000_000_000)
        while sim.market.now < until and not run.delivered.is_set():  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def _reconnected(run: Run) -> None:
    """Wait until the first connection has ended and the next delivered `_ENOUGH` trades."""
    at = None
    patience = _DEADLINE / 3 if run.truth.connections else 0
    with anyio.move_on_after(patience):
        while not run.delivered.is_set():
            if at is None and _first_connection_ended(run):
                at = len(run.events)
            since = run.events[at:] if at is not None else []
            trades = Counter(event.symbol for event in since if type(event) is Trade)
            if all(trades[symbol] >= _ENOUGH for symbol in run.subject.symbols):
                return
            await anyio.sleep(0.01)


def _first_connection_ended(run: Run) -> bool:
    """Return whether the first connection has ended and another has replaced it."""
    if run.lines:
        return len(run.lines) > 1 and run.lines[0].ended.is_set()
    return any(type(event) is Status and event.state == "reconnecting" for event in run.events)


async def _stop_simulation(run: Run, sim: Any) -> None:
    """Stop the simulation and wait until the feed has read all that was sent."""
    lines = list(run.lines)
    run.count_before_stop = len(run.events)
    await sim.stop()
    with anyio.move_on_after(2):
        for line in lines:
            await line.ended.wait()
    if not lines:  # the plugin's own Source reads or polls, so there is no end to wait for
        await anyio.sleep(0.3)
