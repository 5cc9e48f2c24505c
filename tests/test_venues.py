"""All venues at once in one stack: each delivers its truth, and none disturbs another."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
import tapeloom
import tapeloom_simulator as simulator
from attrs import define, field, frozen
from tapeloom import Event, FeedSpec, Gap, Reject, Stack, Status, Trade
from tapeloom_simulator import Fault, Simulation

SECOND = 1_000_000_000


@frozen
class Side:
    """One venue of the stack: what it streams, from whose simulator, and how exactly it tells it."""

    venue: str
    symbols: Sequence[str]
    market: str = ""
    simulator: str = ""  #: another venue's, where it has none of its own
    unit: int = 1_000_000  #: ns in its unit of time
    sides: bool = True  #: it tells who took
    settings: Mapping[str, Any] = field(factory=dict)

    @property
    def simulated(self) -> str:
        return self.simulator or self.venue

    @property
    def feed(self) -> FeedSpec:
        return FeedSpec(
            self.venue, tuple(self.symbols), ("trades", "quotes"), market=self.market,
            name=self.venue, stages=("quality", "bars"),
        )  # fmt: skip

    def table(self, sim: Simulation) -> dict[str, Any]:
        if self.venue != "ccxt":
            return {**sim.settings, **self.settings}
        rest, ws = f"{sim.url}/api/v3", sim.url.replace("http", "ws", 1)
        urls = {"public": rest, "v1": rest, "ws": {"spot": f"{ws}/stream/ws"}}
        options = {"fetchMarkets": {"types": ["spot"]}}
        return {"exchanges": {self.market: {"options": options, "urls": {"api": urls}}}}


BINANCE = Side("binance", ("BTC/USDT", "ETH/USDT"), "spot")
BYBIT = Side("bybit", ("BTC/USDT:USDT", "ETH/USDT:USDT"), "linear")
HYPERLIQUID = Side("hyperliquid", ("BTC/USDC:USDC", "ETH/USDC:USDC"), "perp")
ALPACA = Side("alpaca", ("AAPL/USD", "MSFT/USD"), "stocks", unit=1, sides=False)
IB = Side("ib", ("AAPL/USD", "MSFT/USD"), unit=SECOND, sides=False)
CCXT = Side("ccxt", ("BTC/USDT", "ETH/USDT"), "binance", simulator="binance")
ALL = (BINANCE, BYBIT, HYPERLIQUID, ALPACA, IB, CCXT)


@define
class Running:
    """A stack of several venues, their simulators, and what has come of each."""

    stream: tapeloom.Stream
    sims: dict[str, Simulation]
    events: dict[str, list[Event]] = field(factory=lambda: defaultdict(list))

    def trades(self, side: Side, symbol: str) -> list[tuple[Any, ...]]:
        """What was delivered of the live trades."""
        return [
            (trade.price, trade.size, trade.side, trade.ts)
            for trade in self.events[side.venue]
            if type(trade) is Trade and trade.symbol == symbol and trade.origin == "live"
        ]

    def truth(self, side: Side, symbol: str) -> list[tuple[Any, ...]]:
        """What the venue sold."""
        return [
            (trade.price, trade.size, trade.side if side.sides else None,
             trade.ts - trade.ts % side.unit)
            for trade in self.sims[side.venue].truth.trades(symbol)
        ]  # fmt: skip

    def troubles(self, side: Side) -> list[Event]:
        bad = {"stale", "crossed", "refused", "reconnecting", "failed", "stalled"}
        return [
            event
            for event in self.events[side.venue]
            if type(event) in (Gap, Reject) or (type(event) is Status and event.state in bad)
        ]

    def owed(self, side: Side) -> int:
        """How many trades the venue has sold, and the stream not delivered."""
        return sum(
            len(self.truth(side, symbol)) - len(self.trades(side, symbol))
            for symbol in side.symbols
        )

    async def stop(self, *sides: Side) -> list[Event]:
        """Close these venues, wait until what they sold has come; return what went wrong before."""
        troubles = [event for side in sides for event in self.troubles(side)]
        for side in sides:
            await self.sims[side.venue].stop()
        with anyio.move_on_after(10):
            while any(self.owed(side) > 0 for side in sides):  # noqa: ASYNC110
                await anyio.sleep(0.05)
        return troubles


@asynccontextmanager
async def running(
    *sides: Side, faults: Mapping[str, Sequence[Fault]] | None = None, **market: Any
) -> AsyncIterator[Running]:
    """Open a stack of *sides*, and let all markets begin together once everything is subscribed."""
    async with AsyncExitStack() as exits:
        sims = {}
        for number, side in enumerate(sides):
            own = {"rate": 40.0, **market.get(side.venue, {})}
            serving = simulator.serve(
                side.simulated, symbols=side.symbols, seed=number, start="manual",
                faults=(faults or {}).get(side.venue, ()), **own,
            )  # fmt: skip
            sims[side.venue] = await exits.enter_async_context(serving)
        stack = Stack(
            feeds=tuple(side.feed for side in sides),
            stages={"bars": {"every": ["1s"]}},
            venues={side.venue: side.table(sims[side.venue]) for side in sides},
        )
        stream = await exits.enter_async_context(tapeloom.open(stack))
        run = Running(stream, sims)
        names = {plan.feed.venue: plan.feed.name for plan in stream.plans}
        tasks = await exits.enter_async_context(anyio.create_task_group())

        async def collect() -> None:
            async for event in stream:
                run.events[names[event.venue]].append(event)

        tasks.start_soon(collect)
        with anyio.fail_after(30):
            for side in sides:
                while len(sims[side.venue].truth.sent) < 2 * len(side.symbols):  # noqa: ASYNC110
                    await anyio.sleep(0.01)
        for sim in sims.values():
            sim.begin()
        yield run
        stream.stop()
        tasks.cancel_scope.cancel()


def hold(run: Running, side: Side) -> None:
    """Hold what one venue delivered against its truth: all, once each, in order."""
    for symbol in side.symbols:
        delivered, truth = run.trades(side, symbol), run.truth(side, symbol)

        assert len(truth) > 20, f"{side.venue} {symbol} hardly traded"
        assert delivered == truth, f"{side.venue} {symbol}"


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_six_venues_in_one_stack_deliver_their_truth_for_a_minute() -> None:
    async with running(*ALL) as run:
        await anyio.sleep(60)
        troubles = await run.stop(*ALL)

    assert troubles == []
    for side in ALL:
        hold(run, side)


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("venue", ["binance", "bybit", "hyperliquid", "alpaca", "ib"])
async def test_every_simulated_venue_can_be_watched_with_the_demo(venue: str) -> None:
    words = ["demo", "--venue", venue, "--for", "2", "--out", "none"]
    done = await anyio.run_process([sys.executable, "-m", "tapeloom", *words])
    summary = json.loads(done.stderr.splitlines()[-1])

    assert summary["errors"] == []
    assert summary["events"]["trade"] > 50
    assert summary["events"]["bar"] > 0


@pytest.mark.parametrize("how", ["stop", "break", "flood"])
async def test_what_befalls_one_venue_leaves_the_other_untouched(how: str) -> None:
    broken = [
        Fault(kind="disconnect", how="abrupt", after=200, every=300, count=0),
        Fault(kind="malformed_json", after=50, every=40, count=0),
        Fault(kind="dup_trade", after=10, every=15, count=0),
    ]
    faults = {"bybit": broken if how == "break" else []}
    flood = {"bybit": {"rate": 20_000.0, "slow": "wait"}} if how == "flood" else {}
    async with running(BINANCE, BYBIT, faults=faults, **flood) as run:
        await anyio.sleep(1.5)
        if how == "stop":
            await run.sims["bybit"].stop()
        await anyio.sleep(2.5)
        troubled, came = run.troubles(BYBIT), len(run.events["bybit"])
        troubles = await run.stop(BINANCE)

    assert troubles == []
    hold(run, BINANCE)
    if how == "flood":
        assert came > 10_000
    else:
        assert troubled
