"""Feeds of Interactive Brokers, and streams from a simulated gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
import tapeloom_ib
import tapeloom_simulator as simulator
from tapeloom.plugin import Feed

NANO = 1_000_000_000


@pytest.fixture
def anyio_backend():
    """Interactive Brokers' library runs on asyncio only."""
    return "asyncio"


class Stopped:
    """A clock that never advances."""

    def time_ns(self) -> int:
        return 7

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here waits")


@pytest.fixture
def make():
    """Return a function that makes a feed."""

    def made(symbols=("AAPL/USD",), channels=("trades",), **settings: Any) -> Feed:
        own = tapeloom_ib.Settings(**settings)
        return Feed("f", "ib", "", [*symbols], channels, settings=own, clock=Stopped())

    return made


class Received:
    """What a stream brought, and the simulation it came from."""

    def __init__(self, sim: Any) -> None:
        self.sim, self.events = sim, []
        self.stream: Any = None
        self.ending = False

    def of(self, kind: str, symbol: str = "", channel: str = "") -> list[Any]:
        return [
            event
            for event in self.events
            if event.type == kind
            and (not symbol or event.symbol == symbol)
            and (not channel or event.channel == channel)
        ]

    def states(self, channel: str | None = None) -> list[str]:
        return [event.state for event in self.of("status") if channel in (None, event.channel)]

    async def until(self, enough, seconds: float = 10.0) -> None:
        """Read until *enough* returns true."""
        async with asyncio.timeout(seconds):
            while not enough(self):
                self.events.append(await anext(self.stream))

    async def finish(self, seconds: float = 20.0) -> None:
        """Read all of a market with a limited number of trades, to the end of the connection."""
        async with asyncio.timeout(seconds):
            end, before = asyncio.create_task(self._end()), 0
            while not self.ending or self.states("").count("reconnecting") == before:
                if not self.ending:
                    before = self.states("").count("reconnecting")
                self.events.append(await anext(self.stream))
            await end

    async def _end(self) -> None:
        await self.sim.finished()
        self.ending = True
        await self.sim.stop()


@pytest.fixture
def received():
    """Return a context: a simulated gateway and a stream of it."""

    @asynccontextmanager
    async def run(
        symbols=("AAPL/USD",),
        channels=("trades",),
        *,
        stages=(),
        settings: dict[str, Any] | None = None,
        listed: Any = None,
        streams: int | None = None,
        **options: Any,
    ) -> AsyncIterator[Received]:
        import tapeloom
        from tapeloom import FeedSpec, Stack

        made = listed or [
            simulator.listed(symbol, price=Decimal(190), tick=Decimal("0.01"), lot=Decimal(1))
            for symbol in symbols
        ]
        count = len(symbols) * len(channels) if streams is None else streams
        options = {"seed": 7, "rate": 400.0, "speed": 20.0, "start": count or "now", **options}
        async with simulator.serve("ib", symbols=made, **options) as sim:
            table = {**sim.settings, **(settings or {})}
            feed = FeedSpec("ib", tuple(symbols), tuple(channels), stages=tuple(stages))
            received = Received(sim)
            async with tapeloom.open(Stack(feeds=[feed], venues={"ib": table})) as stream:
                received.stream = aiter(stream)
                yield received

    return run
