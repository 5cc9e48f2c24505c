"""A stack streams from the simulated venue; its events are compared with the simulated market."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from typing import Any

import anyio
import pytest
import tapeloom
import tapeloom_simulator as simulator
from tapeloom import FeedSpec, Gap, Quote, Reject, Stack, Status, Trade
from tapeloom.events import Bar, Book, Ticker

pytest.importorskip("tapeloom_books", reason="tapeloom-books is not installed")

SPOT, LINEAR = ("BTC/USDT", "ETH/USDT"), ("BTC/USDT:USDT", "ETH/USDC:USDC")
BOOKS = ("book", "book:50", "book:200")
ALL = ("trades", "quotes", *BOOKS, "klines:1m", "ticker")
MS = 1_000_000
#: What differs by event loop, the first test shows.
once = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)


async def play(
    market: str,
    symbols: tuple[str, ...],
    channels: tuple[str, ...],
    *faults: Any,
    trades: int = 1500,
    rate: float = 40.0,
    speed: float = math.inf,
    **settings: Any,
) -> tuple[list[Any], dict[Any, Any], Any]:
    """Stream until all trades have come; return the events, the books and the simulation."""
    events: list[Any] = []
    async with simulator.serve(
        "bybit", symbols=symbols, seed=5, rate=rate, trades=trades, speed=speed, slow="wait",
        start=len(symbols) * len(channels), faults=faults,
    ) as sim:  # fmt: skip
        stages = ("books",) if any(channel.startswith("book") for channel in channels) else ()
        stack = Stack(
            feeds=(FeedSpec("bybit", symbols, channels, market=market, stages=stages),),
            stages={"books": {"channels": [*BOOKS], "retry": "50ms"}},
            venues={"bybit": {**sim.settings, **settings}},
        )
        async with tapeloom.open(stack) as stream:
            consumer, seen = stream.consume(), 0
            with anyio.fail_after(30):
                while seen < trades:
                    batch = await consumer.batch()
                    events += batch
                    seen += sum(type(event) is Trade for event in batch)
                await sim.finished()
                with anyio.move_on_after(0.3):
                    while batch := await consumer.batch():
                        events += batch
            found = stream.stage("books").books if stages else {}
            books = {key: (book.state, *book.top(1_000_000)) for key, book in found.items()}
        return events, books, sim


def events_of(events: list[Any], kind: type, symbol: str, channel: str) -> list[Any]:
    return [e for e in events if type(e) is kind and (e.symbol, e.channel) == (symbol, channel)]


def final(sim: Any, symbol: str, levels: int) -> tuple[str, list[Any], list[Any]]:
    bids, asks = sim.truth.book(symbol)
    return "synced", [*bids.items()][:levels], [*asks.items()][:levels]


@pytest.mark.parametrize(("market", "symbols"), [("spot", SPOT[:1]), ("linear", LINEAR)])
async def test_delivered_events_equal_the_simulated_market(anyio_backend, market, symbols) -> None:
    events, books, sim = await play(market, symbols, ALL, trades=1300, rate=10.0)

    assert [event for event in events if type(event) in (Gap, Reject)] == []
    assert {e.state for e in events if type(e) is Status} == {"connected", "subscribed", "synced"}
    for symbol in symbols:
        instrument = sim.market.instruments[symbol]
        assert [
            (t.price, t.size, t.side, t.ts) for t in events_of(events, Trade, symbol, "trades")
        ] == [(t.price, t.size, t.side, t.ts // MS * MS) for t in sim.truth.trades(symbol)]
        assert [
            (b.ts, b.open, b.high, b.low, b.close, b.volume, b.quote_volume)
            for b in events_of(events, Bar, symbol, "klines:1m")
            if b.closed
        ] == [
            (c.start, *(p * instrument.tick for p in (c.open, c.high, c.low, c.close)),
             c.volume * instrument.lot, c.quote_volume * instrument.tick * instrument.lot)
            for c in sim.truth.closed_bars(symbol, "1m")
        ]  # fmt: skip
        for channel, levels in (("book", 1000), ("book:200", 200), ("book:50", 50)):
            assert books[symbol, channel] == final(sim, symbol, levels)
        best = {q.sequence: q[2:] for q in sim.truth.quotes(symbol)}
        known = sorted(best)
        for quote in events_of(events, Quote, symbol, "quotes")[1:]:
            last = known[bisect_right(known, quote.sequence) - 1]
            assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == best[last]
        assert (
            events_of(events, Ticker, symbol, "ticker")[-1].last
            == sim.truth.trades(symbol)[-1].price
        )


@once
@pytest.mark.parametrize(("resync", "more"), [("subscribe", ()), ("rest", ("stale_snapshot",))])
async def test_a_book_with_a_gap_is_resynced(anyio_backend, resync, more) -> None:
    faults = [
        simulator.Fault(kind="drop_diff", after=5),
        *(simulator.Fault(kind=kind) for kind in more),
    ]
    events, books, sim = await play(
        "linear", LINEAR[:1], ("trades", "book"), *faults, trades=1500, speed=20.0, rate=300.0,
        resync=resync,
    )  # fmt: skip
    gaps = [event for event in events if type(event) is Gap]
    book_requests = sum(path.endswith("orderbook") for path, _ in sim.truth.rest_calls)

    assert len(gaps) == 1
    assert sim.truth.fault_counts() == {fault.kind: fault.count for fault in faults}
    assert {(gap.channel, gap.cause, gap.missing) for gap in gaps} == {("book", "sequence", 1)}
    assert bool(book_requests) == (resync == "rest")
    assert books[LINEAR[0], "book"] == final(sim, LINEAR[0], 1000)


@once
@pytest.mark.parametrize("kind", ["restart", "resnapshot"])
async def test_a_new_snapshot_is_not_a_gap(anyio_backend, kind) -> None:
    faults = [simulator.Fault(kind=kind, after=10, every=25, count=3, per_stream=True)]
    events, books, sim = await play("spot", SPOT[:1], ("trades", "quotes", *BOOKS), *faults)

    assert sim.truth.fault_counts()[kind] >= 6
    assert [event for event in events if type(event) in (Gap, Reject)] == []
    assert not {e.state for e in events if type(e) is Status} & {"stale", "crossed", "waiting"}
    for channel, levels in (("book", 1000), ("book:50", 50)):
        assert books[SPOT[0], channel] == final(sim, SPOT[0], levels)
        snapshots = [b for b in events_of(events, Book, SPOT[0], channel) if b.kind == "snapshot"]
        assert len(snapshots) == 4


@once
async def test_a_huge_delta_is_not_a_gap(anyio_backend) -> None:
    fault = simulator.Fault(kind="huge_batch", after=10, count=3, per_stream=True)
    events, books, sim = await play("linear", LINEAR[:1], ("trades", *BOOKS), fault, trades=600)
    sizes = [len(e.raw_asks) for e in events if type(e) is Book and e.kind == "delta"]

    assert sim.truth.fault_counts() == {"huge_batch": 9}
    assert sum(size > 1000 for size in sizes) == 9
    assert [event for event in events if type(event) in (Gap, Reject)] == []
    assert books[LINEAR[0], "book:50"] == final(sim, LINEAR[0], 50)


@once
async def test_a_crossed_book_is_detected_and_resynced(anyio_backend) -> None:
    fault = simulator.Fault(kind="crossed_book", channel="book", after=5)
    events, books, sim = await play(
        "spot", SPOT[:1], ("trades", "book"), fault, trades=900, speed=20.0, rate=300.0
    )
    states = [e.state for e in events if type(e) is Status and e.channel == "book"]

    assert sim.truth.fault_counts() == {"crossed_book": 1}
    assert states in (["synced"], ["synced", "crossed", "synced"])  # a later delta may uncross it
    assert books[SPOT[0], "book"] == final(sim, SPOT[0], 1000)


@once
async def test_a_kline_that_is_never_confirmed_is_never_closed(anyio_backend) -> None:
    fault = simulator.Fault(kind="missing_final_kline")
    events, _, sim = await play(
        "spot", SPOT[:1], ("trades", "klines:1m"), fault, trades=1000, rate=6.0
    )
    closed = {bar.ts for bar in events_of(events, Bar, SPOT[0], "klines:1m") if bar.closed}

    assert sim.truth.fault_counts() == {"missing_final_kline": 1}
    assert closed == {candle.start for candle in sim.truth.closed_bars(SPOT[0], "1m")[1:]}


@once
async def test_a_request_that_is_refused_once_loses_no_topic(anyio_backend) -> None:
    channels = ("trades", "book:1", *BOOKS, "klines:1m", "ticker")
    fault = simulator.Fault(kind="sub_error")
    events, _, sim = await play("linear", LINEAR, channels, fault, trades=300)
    counts = Counter((e.symbol, e.channel) for e in events if e.type not in ("status", "gap"))

    assert sim.truth.fault_counts() == {"sub_error": 1}
    assert {*counts} >= {(symbol, channel) for symbol in LINEAR for channel in channels}
    assert sum(type(event) is Trade for event in events) == 300


@once
async def test_malformed_frames_lose_only_their_own_trades(anyio_backend) -> None:
    faults = [
        simulator.Fault(kind="malformed_json", after=30, channel="trades"),
        simulator.Fault(kind="plain_text_frame", after=60, channel="trades"),
    ]
    total = 800
    async with simulator.serve(
        "bybit", symbols=SPOT[:1], seed=1, rate=200.0, trades=total, speed=math.inf, start=1,
        slow="wait", faults=faults,
    ) as sim:  # fmt: skip
        stack = Stack(
            feeds=(FeedSpec("bybit", SPOT[:1], ("trades",)),), venues={"bybit": sim.settings}
        )
        events: list[Any] = []
        async with tapeloom.open(stack) as stream:
            consumer = stream.consume()
            with anyio.fail_after(20):
                await sim.finished()
                with anyio.move_on_after(0.3):
                    while batch := await consumer.batch():
                        events += batch
        truth = [(t.price, t.size) for t in sim.truth.trades(SPOT[0])]
    delivered = [(e.price, e.size) for e in events if type(e) is Trade]
    rejects = [e.rule for e in events if type(e) is Reject]

    assert rejects == ["unreadable_frame"] * 2
    assert 0 < total - len(delivered) < 20  # those of the truncated frame
    remaining = iter(truth)
    assert all(any(trade == other for other in remaining) for trade in delivered)
