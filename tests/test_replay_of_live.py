"""A recorded live run with handovers, lost connections and stalls replays to the same events.

The venues are simulated, in virtual time. Every event counts, the statuses of connections included.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, get_args

import anyio
import pytest
import tapeloom
import tapeloom_simulator as simulator
from attrs import evolve
from tapeloom import Bar, Event, FeedSpec, Gap, Registry, Stack, Status, Trade, encode
from tapeloom._runtime.taps import FactName
from tapeloom.hooks import hookimpl
from tapeloom.plugin import Endpoint
from tapeloom_simulator import EPOCH, Fault
from tapeloom_testing import LoopClock, virtual_backend

#: Seconds of the live run, and the age in seconds at which its connections are replaced.
LASTS, MAX_AGE = 130, 45.0
CHANNELS = ("trades", "quotes", "book", "klines:1m")
STAGES = ("quality", "books", "bars", "replaced_early")
FEEDS = (
    FeedSpec("binance", ("BTC/USDT", "ETH/USDT"), CHANNELS, market="spot", stages=STAGES),
    FeedSpec("bybit", ("BTC/USDT:USDT", "ETH/USDT:USDT"), CHANNELS, market="linear", stages=STAGES),
)
#: Symbols that are added while the feed runs.
ADDED = {"binance": ("SOL/USDT",)}
FAULTS = [
    Fault(kind="disconnect", at=10, how="abrupt"),
    Fault(kind="reorder", at=30),
    Fault(kind="late_trade", at=35, value=4),
    Fault(kind="drop_diff", at=55),
    Fault(kind="silent_stall", at=70, how="stream", channel="trades"),
    Fault(kind="malformed_json", at=72),
    Fault(kind="disconnect", at=100, how="clean"),
]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return virtual_backend(request.param)


class ReplacedEarly:
    """Lets core replace connections after seconds, where the venue's age is a day."""

    @hookimpl(wrapper=True)
    def connect(self) -> Any:
        endpoints: Sequence[Endpoint] = yield
        return [evolve(endpoint, max_age_seconds=MAX_AGE) for endpoint in endpoints]


def registry() -> Registry:
    plugins = Registry()
    plugins.register(ReplacedEarly(), "replaced_early")
    return plugins


async def recorded(folder: Path, settings: dict[str, Any]) -> list[Event]:
    """Run the feeds against simulated venues and record them; return the events."""
    events: list[Event] = []
    async with AsyncExitStack() as exits:
        for feed in FEEDS:
            symbols = [*feed.symbols, *ADDED.get(feed.venue, ())]
            serving = simulator.serve(feed.venue, symbols=symbols, seed=3, rate=8, faults=FAULTS)
            settings[feed.venue] = (await exits.enter_async_context(serving)).settings
        stack = Stack(feeds=FEEDS, venues=settings)
        stream = await exits.enter_async_context(
            tapeloom.open(stack, registry=registry(), clock=LoopClock(EPOCH), seed=1, record=folder)
        )
        tasks = await exits.enter_async_context(anyio.create_task_group())

        async def steer() -> None:
            await anyio.sleep(20)
            await stream.add(*ADDED["binance"], feed="binance")
            await anyio.sleep(30)
            await stream.drop("ETH/USDT", feed="binance")
            await anyio.sleep(LASTS - 50)
            stream.stop()

        tasks.start_soon(steer)
        async for batch in stream.batches():
            events += batch
    return events


async def replayed(folder: Path, settings: dict[str, Any], batch: int) -> list[Event]:
    stack = Stack(feeds=FEEDS, venues=settings)
    async with tapeloom.replay(folder, stack, registry=registry(), batch=batch) as stream:
        return [event async for event in stream]


def of_venue(events: Sequence[Event], venue: str) -> list[str]:
    return [encode(event) for event in events if event.venue == venue]


async def test_a_recorded_live_run_replays_to_the_same_events_at_any_batch_size(
    tmp_path: Path, anyio_backend: tuple[str, dict[str, Any]]
) -> None:
    settings: dict[str, Any] = {}
    live = await recorded(tmp_path, settings)
    for venue in settings:  # what the run was to show has happened, for each venue
        states = {event.state for event in live if type(event) is Status and event.venue == venue}
        gaps = {(gap.cause, gap.state) for gap in live if type(gap) is Gap and gap.venue == venue}
        assert {"replaced", "reconnecting", "stalled", "stale", "synced"} <= states
        assert {("disconnect", "filled"), ("stall", "filled")} <= gaps
        assert any(type(bar) is Bar and bar.venue == venue and bar.closed for bar in live)

    for batch in (256, 7, 1) if anyio_backend[0] == "asyncio" else (1,):
        again = await replayed(tmp_path, settings, batch)
        for venue in settings:
            first, second = of_venue(live, venue), of_venue(again, venue)
            differ = [pair for pair in zip(first, second, strict=False) if pair[0] != pair[1]]
            assert differ[:1] == []
            assert len(first) == len(second)

    part = FeedSpec("binance", ("BTC/USDT",), ("trades",), market="spot", stages=("quality",))
    async with tapeloom.replay(
        tmp_path / "binance.jsonl.zst", Stack(feeds=(part,), venues=settings)
    ) as stream:
        of_part = [evolve(event, recv=0) async for event in stream.of(Trade, Gap)]
    assert of_part == [  # the time of a Gap is that of the last event, of any channel
        evolve(event, recv=0)
        for event in live
        if type(event) in (Trade, Gap)
        and (event.venue, event.symbol, event.channel) == ("binance", "BTC/USDT", "trades")
    ]


def test_every_fact_has_a_row_in_the_reference_of_tapes() -> None:
    page = (Path(__file__).parents[1] / "docs/reference/tapes.md").read_text(encoding="utf-8")
    _, _, table = page.partition("## Facts")
    rows = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)

    assert sorted(rows) == sorted(get_args(FactName))
