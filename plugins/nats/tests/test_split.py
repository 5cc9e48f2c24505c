"""A stack in one process and the same stack cut in two, by TOML alone, give the same bars of the same market."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
import tapeloom
from durability import sqlite_store
from tapeloom import Bar, Event, Registry, Trade
from tapeloom_simulator import serve
from tapeloom_testing.services import NatsServer

pytest.importorskip("tapeloom_bars")
pytest.importorskip("tapeloom_binance")
pytest.importorskip("tapeloom_bybit")
pytest.importorskip("tapeloom_quality")

SYMBOLS = ("BTC/USDT", "ETH/USDT")  # both venues have both

FEEDS = """\
[[feed]]
venue    = "binance"
symbols  = ["BTC/USDT", "ETH/USDT"]
channels = ["trades"]
{stages}

[[feed]]
venue    = "bybit"
market   = "spot"
symbols  = ["BTC/USDT", "ETH/USDT"]
channels = ["trades"]
{stages}

[venue.binance]
base_url = "{binance}"

[venue.bybit]
base_url = "{bybit}"
"""
STAGES = """\
[stage.bars]
every = "1s"
"""
STORE = """\
[[sink]]
use  = "sqlite"
path = "{path}"
"""
NAMES = 'stages = ["quality", "bars"]'
PUBLISH = """\
[[sink]]
use     = "nats"
servers = "{nats}"
stream  = "split"
prefix  = "split"
queue   = {{ policy = "block" }}
"""
READ = """\
[[feed]]
venue  = "nats"
stages = ["quality", "bars"]

[venue.nats]
servers = "{nats}"
stream  = "split"
prefix  = "split"
start   = "first"
"""


def bars(events: Sequence[Event]) -> dict[tuple[str, str, int], tuple[object, ...]]:
    """Return the latest revision of each complete bar."""
    return {
        (bar.venue, bar.symbol, bar.ts): (bar.open, bar.high, bar.low, bar.close, bar.volume)
        for bar in events
        if isinstance(bar, Bar) and bar.closed and bar.complete and bar.trades
    }


async def run(folder: Path, stacks: dict[str, str], enough: str) -> None:
    """Run stacks beside each other until the store named *enough* has bars of four seconds."""
    async with anyio.create_task_group() as tasks:
        for name, text in stacks.items():
            file = folder / f"{name}.toml"
            file.write_text(text, "utf-8")
            tasks.start_soon(run_one, file)
        with anyio.fail_after(60):
            while len({ts for _, _, ts in bars(stored(folder, enough))}) < 4:  # noqa: ASYNC110
                await anyio.sleep(0.1)
        tasks.cancel_scope.cancel()


async def run_one(file: Path) -> None:
    registry = Registry()
    registry.register(sqlite_store, "sqlite")
    async with tapeloom.open(file, registry=registry) as stream:
        await stream.run()


def stored(folder: Path, name: str) -> Sequence[Event]:
    return sqlite_store.read(folder / f"{name}.sqlite")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_halves_give_the_bars_of_the_whole(server: NatsServer, tmp_path: Path) -> None:
    async with (
        serve("binance", symbols=SYMBOLS, rate=100) as binance,
        serve("bybit", symbols=SYMBOLS, rate=100) as bybit,
    ):
        places = {"binance": binance.url, "bybit": bybit.url, "nats": server.url}

        def store(name: str) -> str:
            return STORE.format(path=tmp_path / f"{name}.sqlite")

        stacks = {
            "whole": FEEDS.format(stages=NAMES, **places) + STAGES + store("whole"),
            "ingest": FEEDS.format(stages="", **places) + PUBLISH.format(**places),
            "reader": READ.format(**places) + STAGES + store("reader"),
        }
        await run(tmp_path, stacks, "reader")

    whole, cut = (stored(tmp_path, name) for name in ("whole", "reader"))
    expected, found = bars(whole), bars(cut)
    both = expected.keys() & found.keys()
    assert {(venue, symbol) for venue, symbol, _ in both} == {
        (venue, symbol) for venue in ("binance", "bybit") for symbol in SYMBOLS
    }
    assert len(both) >= 8
    assert {key: found[key] for key in both} == {key: expected[key] for key in both}
    trades = [trade.identity for trade in cut if isinstance(trade, Trade)]
    assert len(trades) == len(set(trades))
