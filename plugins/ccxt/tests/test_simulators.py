"""End to end: the real ccxt against simulated exchanges. Delivered events equal the market."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import anyio
import pytest
import tapeloom
import tapeloom_simulator as simulator
from tapeloom import FeedSpec, Stack
from tapeloom.events import Bar, Book, Event, Gap, Quote, Reject, Status, Ticker, Trade

pytestmark = pytest.mark.slow  # they run at the pace of real sockets

Pointed = Callable[..., dict[str, Any]]
MS = 1_000_000


def stack(exchange: str, symbols: Any, channels: Any, table: dict[str, Any]) -> Stack:
    feed = FeedSpec("ccxt", tuple(symbols), tuple(channels), market=exchange)
    return Stack(feeds=(feed,), venues={"ccxt": table})


async def collect(opened: Stack, enough: Callable[[list[Event]], bool]) -> list[Event]:
    """Return what comes until it is enough."""
    events: list[Event] = []
    with anyio.fail_after(15):
        async with tapeloom.open(opened) as stream:
            async for event in stream:
                events.append(event)
                if enough(events):
                    break
    return events


def of(events: list[Event], cls: type[Any], symbol: str, channel: str = "") -> list[Any]:
    return [
        event
        for event in events
        if type(event) is cls and event.symbol == symbol and channel in ("", event.channel)
    ]


def rebuilt(books: list[Book]) -> tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]]:
    """Return the book that snapshots and differences add up to."""
    sides: tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]] = ({}, {})
    for event in books:
        for side, levels in zip(sides, (event.bids, event.asks), strict=True):
            if event.kind == "snapshot":
                side.clear()
            side.update(levels)
    return tuple({p: s for p, s in side.items() if s} for side in sides)  # type: ignore[return-value]


def best(side: dict[Decimal, Decimal], count: int, *, highest: bool) -> list[tuple[Any, Any]]:
    return sorted(side.items(), reverse=highest)[:count]


EXCHANGES = {
    "binance": (["BTC/USDT", "ETH/USDT"], ["book:5", "ticker", "quotes"], 1000),
    "bybit": (["BTC/USDT", "BTC/USDT:USDT"], ["book:5", "ticker", "quotes"], 20),
    "hyperliquid": (["BTC/USDC:USDC"], [], 0),
}


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_delivered_events_equal_the_market(exchange: str, pointed: Pointed):
    pytest.importorskip(f"tapeloom_{exchange}", reason="it has the exchange's server side")
    symbols, more, depth = EXCHANGES[exchange]
    channels = ["trades", "klines:1m", *(["book"] if depth else []), *more]
    streams = len(symbols) * (len(channels) - (1 if "book:5" in channels else 0))
    async with simulator.serve(
        exchange, symbols=symbols, seed=7, trades=1000, speed=200, rate=12, start=streams
    ) as sim:

        def enough(events: list[Event]) -> bool:
            if sim.truth.trade_count < 1000:
                return False
            return all(
                len(of(events, Trade, symbol)) >= len(sim.truth.trades(symbol))
                and (not depth or close_to(events, symbol))
                for symbol in symbols
            )

        def close_to(events: list[Event], symbol: str) -> bool:
            books = of(events, Book, symbol, "book")
            mine, truth = rebuilt(books), sim.truth.book(symbol)
            return all(
                best(event, depth, highest=high) == best(other, depth, highest=high)
                for event, other, high in zip(mine, truth, (True, False), strict=True)
            )

        events = await collect(
            stack(exchange, symbols, channels, pointed(exchange, sim.url)), enough
        )
        truth = {symbol: sim.truth.trades(symbol) for symbol in symbols}
        candles = {symbol: sim.truth.closed_bars(symbol, "1m") for symbol in symbols}
        ticks = {symbol: (pit.tick, pit.lot) for symbol, pit in sim.market.instruments.items()}

    assert {event.venue for event in events} == {f"ccxt-{exchange}"}
    assert not [event for event in events if type(event) in (Gap, Reject)]
    for symbol in symbols:
        tick, _lot = ticks[symbol]
        assert [
            (event.price, event.size, event.side, event.ts) for event in of(events, Trade, symbol)
        ] == [(event.price, event.size, event.side, event.ts // MS * MS) for event in truth[symbol]]
        bars = [bar for bar in of(events, Bar, symbol) if bar.closed and bar.origin == "live"]
        expected = {
            event.start: (
                event.open * tick,
                event.high * tick,
                event.low * tick,
                event.close * tick,
            )
            for event in candles[symbol]
        }
        assert bars, "some have closed"
        for bar in bars:
            assert (bar.open, bar.high, bar.low, bar.close) == expected[bar.ts]
        for cls in (Ticker, Quote) if more else ():
            assert of(events, cls, symbol)


async def faulty(
    pointed: Pointed, channel: str, enough: Any, fault: Any, **table: Any
) -> tuple[Any, Any]:
    """Return what comes of a simulated Binance with a *fault*, and the truth."""
    pytest.importorskip("tapeloom_binance", reason="it has the exchange's server side")
    async with simulator.serve(
        "binance", symbols=["BTC/USDT"], rate=100, speed=4, epoch=time.time_ns(), faults=[fault]
    ) as sim:
        settings = pointed("binance", sim.url, numbered_trades=True, **table)
        opened = stack("binance", ["BTC/USDT"], [channel], settings)
        events = await collect(opened, enough)
        assert sim.truth.fault_counts()[fault.kind] >= 1
        return events, sim.truth.trades("BTC/USDT")


def after_gap(channel: str, cls: type[Any]) -> Callable[[list[Event]], bool]:
    """Return whether *cls* has come again since a gap of *channel*."""

    def enough(events: list[Event]) -> bool:
        gaps = [
            n for n, event in enumerate(events) if type(event) is Gap and event.channel == channel
        ]
        return bool(gaps) and len(of(events[gaps[-1] :], cls, "BTC/USDT")) > 20

    return enough


def check_losses(events: list[Event], truth: Any) -> int:
    """Check that each trade that did not come lies in a Gap; return how many there are."""
    came = {event.id for event in of(events, Trade, "BTC/USDT")}
    gaps = list(of(events, Gap, "BTC/USDT", "trades"))
    lost = [event for event in truth if min(came) < event.id < max(came) and event.id not in came]
    for event in lost:
        assert any(gap.since // MS <= event.ts // MS <= gap.until // MS for gap in gaps)
    return len(lost)


FAULTS = {
    "a connection that is closed": ({"kind": "disconnect", "at": 1.0}, {}),
    "a stream that falls silent": (
        {"kind": "silent_stall", "channel": "trades", "after": 20, "how": "stream"},
        {"stall": 0.4},
    ),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_gap_covers_the_trades_lost_at_a_reconnect(name: str, pointed: Pointed):
    fault, table = FAULTS[name]

    events, truth = await faulty(
        pointed, "trades", after_gap("trades", Trade), simulator.Fault(**fault), **table
    )

    assert check_losses(events, truth) > 0
    assert "reconnecting" in [event.state for event in events if type(event) is Status]


async def test_a_book_with_a_lost_update_is_rebuilt_after_a_gap(pointed: Pointed):
    fault = simulator.Fault(kind="drop_diff", after=12)

    def enough(events: list[Event]) -> bool:
        gaps = [n for n, event in enumerate(events) if type(event) is Gap]
        return bool(gaps) and bool(of(events[gaps[-1] :], Book, "BTC/USDT"))

    events, _ = await faulty(pointed, "book", enough, fault)

    [gap] = of(events, Gap, "BTC/USDT")
    assert (gap.channel, gap.cause) == ("book", "sequence")
    assert of(events, Book, "BTC/USDT")[-1].kind == "snapshot"


async def test_an_unreadable_frame_does_not_affect_others(pointed: Pointed):
    fault = simulator.Fault(kind="malformed_json", channel="trades", after=20)

    def enough(events: list[Event]) -> bool:
        return len(of(events, Trade, "BTC/USDT")) >= 50

    events, _ = await faulty(pointed, "trades", enough, fault)

    ids = [event.id for event in of(events, Trade, "BTC/USDT")]
    assert ids[-1] - ids[0] == len(ids), "one is missing"
    [reject] = [event for event in events if type(event) is Reject]
    assert reject.rule == "unreadable_frame"
    assert reject.evidence.startswith('{"e":"trade"')


async def test_a_trade_that_is_sent_twice_is_delivered_once(pointed: Pointed):
    fault = simulator.Fault(kind="dup_trade", after=5, every=10, count=3)

    def enough(events: list[Event]) -> bool:
        return len(of(events, Trade, "BTC/USDT")) >= 50

    events, _ = await faulty(pointed, "trades", enough, fault)

    ids = [event.id for event in of(events, Trade, "BTC/USDT")]
    assert ids == [*range(ids[0], ids[0] + len(ids))]
    assert [event.rule for event in of(events, Reject, "BTC/USDT")] == ["duplicate"] * 3
