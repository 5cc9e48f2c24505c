"""Somebody sets this machine's clock by an hour while a stream runs: nothing is lost, nothing waits for it."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest
import tapeloom
import tapeloom_simulator as simulator
from tapeloom import Bar, Event, FeedSpec, Gap, Stack, Status, Trade
from tapeloom_simulator import EPOCH, Fault, Ledger
from tapeloom_testing import LoopClock, virtual_backend

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
SYMBOLS = ("BTC/USDT", "ETH/USDT")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return virtual_backend(request.param)


class SetClock(LoopClock):
    """The loop's time, which is set by *shift* after 130 seconds."""

    def __init__(self, shift: int) -> None:
        super().__init__(EPOCH)
        self._shift = shift

    def time_ns(self) -> int:
        return super().time_ns() + (self._shift if anyio.current_time() > 130 else 0)


@pytest.mark.parametrize("shift", [-HOUR, HOUR], ids=["back", "forth"])
async def test_a_clock_that_is_set_costs_no_event_no_bar_and_no_watch(
    shift: int, tmp_path: Path
) -> None:
    """Trades, books and bars go on; a stream that falls silent afterwards is found, and so is a cut."""
    faults = [
        Fault(kind="silent_stall", at=200.0, how="stream", symbol="ETH/USDT", channel="trades"),
        Fault(kind="disconnect", at=300.0, how="abrupt"),
    ]
    events: list[tuple[float, Event]] = []
    async with simulator.serve("binance", symbols=SYMBOLS, seed=3, rate=8, faults=faults) as sim:
        feed = FeedSpec(
            "binance", SYMBOLS, ("trades", "book"), stages=("quality", "books", "bars"), name="set"
        )
        stack = Stack(feeds=(feed,), venues={"binance": sim.settings})
        clock = SetClock(shift)
        async with tapeloom.open(stack, clock=clock, seed=1, record=tmp_path) as stream:
            with anyio.move_on_after(420.0):
                async for batch in stream.batches():
                    events += [(anyio.current_time(), event) for event in batch]
        until = sim.market.now - 30 * SECOND
        ledger = Ledger(sim.truth, unit=1_000_000, slack=2 * SECOND)
        ledger.add([event for _, event in events])
        accounts = ledger.accounts(SYMBOLS, EPOCH + 2 * SECOND, until)
        truth = {symbol: sim.truth.trades(symbol) for symbol in SYMBOLS}

    def states(state: str) -> list[tuple[float, Status]]:
        return [(at, e) for at, e in events if type(e) is Status and e.state == state]

    assert [str(one) for one in accounts if not one.balanced] == []
    assert sum(one.live + one.backfilled for one in accounts) == sum(one.sent for one in accounts)

    # It is told, and nothing is called silent or frozen that is not.
    moved = [at for at, _ in states("venue_clock_jumped")]
    assert len(moved) == 1
    assert 130 < moved[0] < 140
    assert states("venue_clock_stopped") == []
    (silent,) = [(at, e) for at, e in states("stalled") if at > 130]
    assert (silent[1].symbol, silent[1].channel) == ("ETH/USDT", "trades")
    assert 200 < silent[0] < 230  # as patient as with any coin that trades so seldom
    # Subscribing anew does not help, so the connection is left after as long again; at 300 it is cut.
    left, cut = [at for at, _ in states("reconnecting")]
    assert left - 200 == pytest.approx(2 * (silent[0] - 200), abs=5.0)
    assert cut == pytest.approx(300.0, abs=5.0)

    # Every gap is of seconds, on the venue's clock: none has the hour in it.
    gaps = [e for _, e in events if type(e) is Gap and e.cause in ("stall", "disconnect")]
    assert gaps
    assert all(EPOCH <= gap.since <= gap.until < EPOCH + 420 * SECOND for gap in gaps)
    assert max(gap.until - gap.since for gap in gaps) < MINUTE

    # Bars close when their minute is over, and say in the end what was sold.
    first: dict[tuple[str, int], float] = {}
    last: dict[tuple[str, int], Bar] = {}
    for at, event in events:
        if type(event) is Bar and event.closed:
            first.setdefault((event.symbol, event.ts), at)
            last[event.symbol, event.ts] = event
    volumes: defaultdict[tuple[str, int], Decimal] = defaultdict(Decimal)
    for symbol in SYMBOLS:
        for one in truth[symbol]:
            volumes[symbol, one.ts - one.ts % MINUTE] += one.size
    for minute in range(1, 6):
        for symbol in SYMBOLS:
            key = symbol, EPOCH + minute * MINUTE
            assert last[key].volume == volumes[key]
            assert (first[key] - (minute + 1) * 60) < 5.0

    # And the tape has it all, in the order in which it came.
    async with tapeloom.replay(tmp_path / "set.jsonl.zst", feed) as again:
        replayed = [event async for event in again.of(Trade)]
    live = [e for _, e in events if type(e) is Trade and e.origin == "live"]
    assert [(e.symbol, e.id) for e in replayed if e.origin == "live"][: len(live)] == [
        (e.symbol, e.id) for e in live
    ]
