"""Days of planned and unplanned ends, in virtual time, through the real plugins: a ledger of every trade.

Venues end every connection from time to time: Binance after 24 hours, Interactive Brokers' gateway by
its daily restart, and Alpaca takes one connection only, so that none can stand in for another. Nothing
may be lost in silence, and nothing may come twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
import pytest
import tapeloom
import tapeloom_simulator as simulator
from attrs import define
from tapeloom import Event, FeedSpec, Gap, Stack, Status
from tapeloom_simulator import EPOCH, Account, Fault, Ledger, count_reports
from tapeloom_testing import LoopClock, virtual_backend

pytestmark = pytest.mark.slow

SECOND = 1_000_000_000
HOUR = 3600.0
#: Up to how long before the end the books are closed.
SETTLES = 60


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return virtual_backend(request.param)


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the simulator look once a second for what is due: days would take minutes otherwise."""
    monkeypatch.setattr("tapeloom_simulator.market_runner._MAX_SLEEP_SECONDS", 1.0)


@define
class Days:
    """What came of some days."""

    accounts: list[Account]
    events: list[Event]
    told: Counter[str]
    injected: dict[str, int]

    def sum(self, entry: str) -> int:
        return sum(getattr(account, entry) for account in self.accounts)

    def states(self, state: str) -> list[Status]:
        return [one for one in self.events if isinstance(one, Status) and one.state == state]

    def gaps(self) -> list[Gap]:
        return [one for one in self.events if isinstance(one, Gap)]


async def live(
    venue: str,
    market: str,
    symbols: Sequence[str],
    hours: float,
    *,
    faults: Sequence[Fault] = (),
    unit: int = 1_000_000,
    rate: float = 0.2,
    settings: Mapping[str, Any] | None = None,
) -> Days:
    """Stream trades for so many hours of the venue's and our time, and close the books."""
    async with simulator.serve(venue, symbols=symbols, seed=3, rate=rate, faults=faults) as sim:
        # No stage: one that takes out what comes twice would hide it.
        feed = FeedSpec(venue, symbols, ("trades",), market=market)
        stack = Stack(feeds=(feed,), venues={venue: {**sim.settings, **(settings or {})}})
        events: list[Event] = []
        async with tapeloom.open(stack, clock=LoopClock(EPOCH), seed=1) as stream:
            with anyio.move_on_after(hours * HOUR):
                async for batch in stream.batches():
                    events += batch
            told = count_reports(events, stream.counters)
        ledger = Ledger(sim.truth, unit=unit, slack=2 * SECOND)
        ledger.add(events)
        begun = min(one.since for one in sim.truth.sent)
        accounts = ledger.accounts(symbols, begun + SECOND, sim.market.now - SETTLES * SECOND)
        return Days(accounts, events, told, sim.truth.fault_counts())


async def test_a_day_of_a_venue_that_ends_every_connection_after_24_hours_loses_nothing() -> None:
    """Binance: a connection is replaced after 23 hours, and both bring the same for some seconds."""
    days = await live("binance", "spot", ("BTC/USDT", "ETH/USDT"), 24.5, rate=1.0)

    assert [str(one) for one in days.accounts if not one.balanced] == []
    assert days.sum("sent") > 80_000
    assert days.sum("live") == days.sum("sent")  # all of it live: nothing was even to be fetched
    assert len(days.states("replaced")) == 1
    assert days.states("reconnecting") == []
    assert days.gaps() == []


async def test_a_day_in_which_the_venue_ends_every_connection_each_hour_is_fetched_to_the_last_trade(
) -> None:  # fmt: skip
    """Binance, without a word: what the holes have cost is fetched over REST."""
    faults = [Fault(kind="max_age", seconds=HOUR, count=0)]
    days = await live("binance", "spot", ("BTC/USDT", "ETH/USDT"), 24.0, faults=faults)

    assert [str(one) for one in days.accounts if not one.balanced] == []
    assert days.injected["max_age"] == 23
    assert len(days.states("reconnecting")) == 23
    assert days.sum("live") + days.sum("backfilled") == days.sum("sent")
    assert {gap.state for gap in days.gaps()} <= {"open", "filled"}


async def test_a_day_at_a_venue_that_takes_one_connection_is_told_and_fetched() -> None:
    """Alpaca: it ends the connection every two hours, and holds its place for some seconds more."""
    faults = [
        Fault(kind="max_age", seconds=2 * HOUR, count=0),
        Fault(kind="lingering_session", seconds=20.0, count=0),
    ]
    days = await live("alpaca", "crypto", ("BTC/USD", "ETH/USD"), 24.0, faults=faults, unit=1)

    assert [str(one) for one in days.accounts if not one.balanced] == []
    assert days.injected["max_age"] >= 11
    assert days.sum("backfilled") > 0
    assert days.sum("live") + days.sum("backfilled") == days.sum("sent")
    # Each symbol has one gap for each lost connection; it is reported until it is filled. So is a long
    # silence before it is known how often a symbol trades.
    last = {(gap.symbol, gap.since, gap.after_id): gap for gap in days.gaps()}
    causes = [gap.cause for gap in last.values()]
    assert causes.count("disconnect") == 2 * days.injected["max_age"]
    assert {gap.state for gap in last.values()} == {"filled"}
    assert days.states("replaced") == []  # nothing stood in for it


@pytest.mark.parametrize("anyio_backend", [virtual_backend("asyncio")], ids=["asyncio"])
async def test_a_day_and_a_restart_of_a_gateway_lose_nothing_in_silence() -> None:
    """Interactive Brokers, by its own library: the nightly reset, then the restart of the gateway."""
    faults = [
        Fault(kind="ib_1102", at=1 * HOUR),  # the servers' reset; subscriptions are kept
        Fault(kind="disconnect", at=2 * HOUR, how="abrupt"),  # the gateway's restart
        Fault(kind="dial_limit", at=2 * HOUR, count=4),  # which takes a while
        Fault(kind="ib_1101", at=25 * HOUR),  # the next night they are not
        Fault(kind="disconnect", at=26 * HOUR, how="clean"),
    ]
    days = await live("ib", "", ("AAPL/USD", "MSFT/USD"), 26.5, faults=faults, unit=SECOND)

    assert [str(one) for one in days.accounts if not one.balanced] == []
    assert days.injected == {"ib_1102": 1, "disconnect": 2, "dial_limit": 4, "ib_1101": 1}
    assert len(days.states("reconnecting")) == 6
    assert days.sum("live") + days.sum("in_gaps") == days.sum("sent")
    # Four holes a symbol, each of seconds: the rest is there.
    assert days.sum("in_gaps") < 60
    assert [gap.state for gap in days.gaps()] == ["unrecoverable"] * 8
    assert days.states("replaced") == []
