"""A simulated venue for the guide's programs, and the bars that they must receive."""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from decimal import Decimal

import pytest
import tapeloom_simulator as simulator


@pytest.fixture
def anyio_backend():
    """The guide's programs are asyncio's."""
    return "asyncio"


@pytest.fixture
def simulate():
    """Return `serve` for Binance: 1000 times as fast as life, from the first subscription on."""
    reason = "the guide's programs run against a simulated Binance"
    for name in ("tapeloom_binance", "tapeloom_bars", "tapeloom_quality"):
        pytest.importorskip(name, reason=reason)

    def simulate(venue="binance", **options):
        options = {
            "symbols": ["BTC/USDT", "ETH/USDT"],
            "seed": 7,
            "rate": 1.0,
            "speed": 1000.0,
            "start": "first_subscription",
            **options,
        }
        return simulator.serve(venue, **options)

    return simulate


@pytest.fixture
def true_bars():
    """Return what the bars of a symbol are, added up in the most obvious way, by start in ns."""

    def true_bars(sim, symbol, seconds=60):
        groups = defaultdict(list)
        for trade in sim.truth.trades(symbol):
            groups[trade.ts - trade.ts % round(seconds * 1_000_000_000)].append(trade)
        return {
            start: (
                trades[0].price,
                max(trade.price for trade in trades),
                min(trade.price for trade in trades),
                trades[-1].price,
                sum((trade.size for trade in trades), Decimal(0)),
            )
            for start, trades in groups.items()
        }

    return true_bars


@pytest.fixture
def prices():
    """Return a bar's four prices and its volume."""
    return lambda bar: (bar.open, bar.high, bar.low, bar.close, bar.volume)


@pytest.fixture
def take():
    """Return so many bars of a queue, or all until one that is the last wanted."""

    async def take(queue, count=0, until=None, within=20):
        bars = []
        async with asyncio.timeout(within):
            while not (count and len(bars) >= count) and not (until and bars and until(bars)):
                bars.append(await queue.get())
        return bars

    return take


@pytest.fixture
def free_port():
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def until():
    """Wait until something is so."""

    async def until(condition, within=20):
        async with asyncio.timeout(within):
            while not condition():  # noqa: ASYNC110 what is waited for sets no event
                await asyncio.sleep(0.005)

    return until
