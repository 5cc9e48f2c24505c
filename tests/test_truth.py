"""Streaming from a simulated venue, held against what the simulator knows to be true."""

from __future__ import annotations

import math
import ssl
from collections import defaultdict
from decimal import Decimal
from pathlib import Path

import anyio
import pytest
import tapeloom
import tapeloom_simulator as simulator
import trustme
from tapeloom import Bar, Event, FeedSpec, Gap, Network, Reject, Stack, Status, Trade

BASES = ["BTC", "ETH", "SOL", "BNB", "XRP", "DOGE", "ADA", "AVAX", "LINK", "LTC"]
SPOT = [f"{base}/USDT" for base in BASES] + [f"{base}/USDC" for base in BASES]
SWAPS = [f"{base}/USDT:USDT" for base in BASES]
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


async def collect(stream: tapeloom.Stream, sim: simulator.Simulation, trades: int) -> list[Event]:
    """Take everything until all trades have been sent and have come, and what is left at the end."""
    events: list[Event] = []
    seen = 0
    consumer = stream.consume()
    with anyio.fail_after(100):
        while seen < trades:
            batch = await consumer.batch()
            events += batch
            seen += sum(type(event) is Trade for event in batch)
        await sim.finished()
        # The last changes of the books may still be on their way.
        with anyio.move_on_after(0.5):
            while batch := await consumer.batch():
                events += batch
        stream.stop()
        while batch := await consumer.batch():
            events += batch
    return events


def naive_bars(trades: list[simulator.TrueTrade], interval: int) -> dict[int, tuple[Decimal, ...]]:
    """Aggregate in the most obvious way."""
    groups: dict[int, list[simulator.TrueTrade]] = defaultdict(list)
    for trade in trades:
        groups[trade.ts - trade.ts % interval].append(trade)
    return {
        start: (
            some[0].price,
            max(t.price for t in some),
            min(t.price for t in some),
            some[-1].price,
            sum((t.size for t in some), Decimal(0)),
        )
        for start, some in groups.items()
    }


def in_milliseconds(trades: list[simulator.TrueTrade]) -> list[simulator.TrueTrade]:
    """The venue's wire tells times in milliseconds."""
    return [trade._replace(ts=trade.ts - trade.ts % 1_000_000) for trade in trades]


@pytest.mark.slow
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_200_000_trades_in_20_symbols_arrive_once_each_in_order_with_bars_and_books(
    secure: bool, authority: trustme.CA, tmp_path: Path, anyio_backend: str
) -> None:
    total = 200_000
    context, network = None, Network()
    if secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        root = tmp_path / "root.pem"
        authority.cert_pem.write_to_path(str(root))
        network = Network(ca=str(root))
    async with simulator.serve(
        "binance",
        symbols=SPOT,
        seed=11,
        rate=5000,
        trades=total,
        speed=3.0,  # the venue answers over REST in between
        start=len(SPOT) * 2,
        slow="wait",
        tls=context,
    ) as sim:
        stack = Stack(
            feeds=(
                FeedSpec(
                    "binance",
                    tuple(SPOT),
                    ("trades", "book"),
                    market="spot",
                    stages=("quality", "books", "bars"),
                ),
            ),
            stages={"bars": {"every": ["1s", "10s"]}},
            venues={"binance": sim.settings},
            network=network,
        )
        async with tapeloom.open(stack) as stream:
            events = await collect(stream, sim, total)
            kept = stream.stage("books").books
            books = {symbol: kept[symbol, "book"].top(1_000_000) for symbol in SPOT}
        truth = {symbol: in_milliseconds(sim.truth.trades(symbol)) for symbol in SPOT}
        final = {symbol: sim.truth.book(symbol) for symbol in SPOT}

    delivered: dict[str, list[tuple[object, ...]]] = defaultdict(list)
    bars: dict[tuple[str, str], dict[int, Bar]] = defaultdict(dict)
    for event in events:
        if type(event) is Trade:
            delivered[event.symbol].append(
                (event.id, event.price, event.size, event.side, event.ts)
            )
        elif type(event) is Bar:  # the last ones are still open when the stream ends
            bars[event.symbol, event.interval][event.ts] = event

    assert [e for e in events if type(e) in (Gap, Reject)] == []
    # A book may be stale until a snapshot has come: the venue, in this process, sends as fast as it can meanwhile.
    assert [e for e in events if type(e) is Status and e.state == "crossed"] == []
    for symbol in SPOT:
        assert delivered[symbol] == [tuple(t[:5]) for t in truth[symbol]]
        for interval, length in (("1s", SECOND), ("10s", 10 * SECOND)):
            expected = naive_bars(truth[symbol], length)
            got = bars[symbol, interval]
            values = {
                start: (bar.open, bar.high, bar.low, bar.close, bar.volume)
                for start, bar in got.items()
            }
            assert values == expected
        bids, asks = books[symbol]
        assert (dict(bids), dict(asks)) == final[symbol]


async def test_spot_and_futures_in_one_stack_share_nothing(anyio_backend: str) -> None:
    total = 5_000
    async with simulator.serve(
        "binance", symbols=[*SPOT[:5], *SWAPS[:5]], seed=3, rate=2000, trades=total,
        speed=math.inf, start=20, slow="wait",
    ) as sim:  # fmt: skip
        feeds = (
            FeedSpec("binance", tuple(SPOT[:5]), ("trades", "quotes"), market="spot"),
            FeedSpec("binance", tuple(SWAPS[:5]), ("trades", "quotes"), market="usdm"),
        )
        stack = Stack(feeds=feeds, venues={"binance": {**sim.settings, "futures_trades": "raw"}})
        async with tapeloom.open(stack) as stream:
            events = await collect(stream, sim, total)
        truth = {
            symbol: [t.id for t in sim.truth.trades(symbol)] for symbol in sim.market.instruments
        }
    ids: dict[str, list[object]] = defaultdict(list)
    for event in events:
        if type(event) is Trade:
            ids[event.symbol].append(event.id)

    assert dict(ids) == truth


async def test_a_cut_line_is_announced_and_what_came_is_true(anyio_backend: str) -> None:
    async with simulator.serve(
        "binance", symbols=SPOT[:3], seed=5, rate=3000, speed=1.0, start=3,
        faults=[simulator.Fault(kind="disconnect", at=1.0, how="abrupt")],
    ) as sim:  # fmt: skip
        feed = FeedSpec("binance", tuple(SPOT[:3]), ("trades",), market="spot", stages=("quality",))
        stack = Stack(feeds=(feed,), venues={"binance": sim.settings})
        ids: dict[str, list[int]] = defaultdict(list)
        gaps: dict[str, list[Gap]] = defaultdict(list)
        async with tapeloom.open(stack) as stream:
            with anyio.fail_after(30):
                async for event in stream:
                    if type(event) is Gap:
                        gaps[event.symbol].append(event)
                        if event.symbol not in gaps or len(gaps[event.symbol]) == 1:
                            ids[event.symbol].append(-1)
                    elif type(event) is Trade:
                        assert isinstance(event.id, int)
                        if event.origin != "live":
                            continue  # it was fetched to fill the hole
                        ids[event.symbol].append(event.id)
                        if len(gaps) == 3 and all(some[-1] > 0 for some in ids.values()):
                            break
        truth = {symbol: [t.id for t in sim.truth.trades(symbol)] for symbol in SPOT[:3]}

    for symbol in SPOT[:3]:
        cut = ids[symbol].index(-1)
        before = ids[symbol][:cut]
        after = [one for one in ids[symbol][cut:] if one > 0]
        start = truth[symbol].index(before[0])
        assert truth[symbol][start : start + len(before)] == before
        assert after == list(range(after[0], after[0] + len(after)))
        assert gaps[symbol][0].missing == after[0] - before[-1] - 1
