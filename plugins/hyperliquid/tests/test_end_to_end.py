"""End to end: simulated venue, socket, core, parser. Delivered events equal the market.

These tests need tapeloom-simulator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import tapeloom
import tapeloom_simulator as simulator
from tapeloom import FeedSpec, Gap, Reject, Stack, Status, Trade
from tapeloom.errors import SymbolError
from tapeloom.events import Bar, Event

PERP, PEPE, BUILT = "BTC/USDC:USDC", "KPEPE/USDC:USDC", "XYZ.TSLA/USDC:USDC"
PAIRS = ("PURR/USDC", "HYPE/USDC", "BTC/USDC")
MS = 1_000_000


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def feed(market: str, symbols: tuple[str, ...], *channels: str) -> FeedSpec:
    return FeedSpec("hyperliquid", symbols, channels, market=market)


async def delivered(
    sim: Any, feeds: tuple[FeedSpec, ...], enough: Callable[[list[Event]], bool]
) -> list[Event]:
    """Take events until there are enough of them."""
    events: list[Event] = []
    stack = Stack(feeds=feeds, venues={"hyperliquid": sim.settings})
    async with tapeloom.open(stack) as stream:
        consumer = stream.consume()
        with anyio.fail_after(25):
            while not enough(events):
                events += await consumer.batch()
    return events


def trades(events: list[Event], symbol: str, origin: str = "") -> list[Trade]:
    trades_ = [e for e in events if type(e) is Trade and e.symbol == symbol]
    return [trade for trade in trades_ if origin in ("", trade.origin)]


def facts(trades_: list[Any]) -> list[tuple[Any, ...]]:
    return [(trade.price, trade.size, trade.side, trade.ts // MS) for trade in trades_]


def live(count: int) -> Callable[[list[Event]], bool]:
    return lambda events: sum(type(e) is Trade and e.origin == "live" for e in events) >= count


async def test_every_trade_is_delivered_once_in_order(anyio_backend):
    symbols = (PERP, PEPE, BUILT, *PAIRS)
    async with simulator.serve(
        "hyperliquid", symbols=symbols, seed=7, rate=500, trades=3000, speed=20, start=6
    ) as sim:
        feeds = (
            feed("perp", (PERP, PEPE), "trades"),
            feed("perp", (BUILT,), "trades"),
            feed("spot", PAIRS, "trades"),
        )
        events = await delivered(sim, feeds, live(3000))

    for symbol in symbols:
        assert facts(trades(events, symbol)) == facts(sim.truth.trades(symbol))
    assert {event.origin for event in events if type(event) is Trade} == {"live"}
    assert not [event for event in events if type(event) in (Gap, Reject)]
    subscribed = [e for e in events if type(e) is Status and e.state == "subscribed"]
    assert len(subscribed) == 6


async def test_trades_before_the_subscription_are_history(anyio_backend):
    async with simulator.serve(
        "hyperliquid", symbols=(PERP,), seed=3, rate=100, speed=10, start="manual"
    ) as sim:
        sim.begin()
        while sim.truth.trade_count < 100:  # noqa: ASYNC110
            await anyio.sleep(0.005)
        events = await delivered(sim, (feed("perp", (PERP,), "trades"),), live(300))
    past, now = trades(events, PERP, "history"), trades(events, PERP, "live")
    real = facts(sim.truth.trades(PERP))
    got = facts([*past, *now])
    # Two fills of a block may be alike, so that the first says not yet where to begin.
    starts = [at for at, fact in enumerate(real) if fact == got[0]]

    assert len(past) == 30
    assert min(starts) > 0
    assert any(real[at : at + len(got)] == got for at in starts)


async def test_missed_trades_are_backfilled_once_after_a_disconnect(anyio_backend, monkeypatch):
    # However long a busy machine takes to dial again, the batch is to reach back far enough.
    for room in ("streams", "rest"):
        monkeypatch.setattr(f"tapeloom_hyperliquid.simulator.{room}.REPLAYED_TRADES", 500)
    cut = simulator.Fault(kind="disconnect", how="abrupt", channel="trades", after=30)
    async with simulator.serve(
        "hyperliquid", symbols=(PERP,), seed=5, rate=10, trades=120, speed=10,
        start="first_subscription", faults=[cut],
    ) as sim:  # fmt: skip

        def enough(events: list[Event]) -> bool:
            told = any(type(event) is Gap and event.state != "open" for event in events)
            return told and len(trades(events, PERP)) >= 120

        events = await delivered(sim, (feed("perp", (PERP,), "trades"),), enough)
    gaps = [event for event in events if type(event) is Gap]
    origins = Counter(trade.origin for trade in trades(events, PERP))

    assert facts(trades(events, PERP)) == facts(sim.truth.trades(PERP))
    assert {(gap.symbol, gap.channel, gap.cause) for gap in gaps} == {
        (PERP, "trades", "disconnect")
    }
    assert origins["backfill"] > 0
    assert origins["live"] + origins["backfill"] == 120


async def test_bars_are_closed_once_and_equal_the_market(anyio_backend):
    async with simulator.serve(
        "hyperliquid", symbols=(PERP, PEPE), seed=9, rate=20, speed=200, start=2
    ) as sim:

        def closed(events: list[Event]) -> list[Bar]:
            return [e for e in events if type(e) is Bar and e.closed]

        events = await delivered(
            sim,
            (feed("perp", (PERP, PEPE), "klines:1m"),),
            lambda trades_: len(closed(trades_)) > 4,
        )
        for symbol in (PERP, PEPE):
            pit = sim.market.instruments[symbol]
            real = {candle.start: candle for candle in sim.truth.closed_bars(symbol, "1m")}
            bars = [bar for bar in closed(events) if bar.symbol == symbol]
            assert len({bar.ts for bar in bars}) == len(bars) >= 2
            for bar in bars:
                candle = real[bar.ts]
                ticks = (candle.open, candle.high, candle.low, candle.close)
                assert (bar.open, bar.high, bar.low, bar.close) == tuple(
                    p * pit.tick for p in ticks
                )
                assert (bar.volume, bar.trades) == (candle.volume * pit.lot, candle.trades)
                assert bar.complete
                assert not bar.revision


async def test_the_error_for_an_unlisted_symbol_suggests_a_similar_one(anyio_backend):
    async with simulator.serve("hyperliquid", symbols=PAIRS, start="manual") as sim:
        stack = Stack(
            feeds=(feed("spot", ("HYPER/USDC",), "trades"),), venues={"hyperliquid": sim.settings}
        )
        with pytest.raises(SymbolError, match="Did you mean 'HYPE/USDC'"):
            async with tapeloom.open(stack) as stream:
                async for _ in stream:
                    pass
