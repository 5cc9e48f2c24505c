"""The app, driven by keys, over a stream of a simulated venue on the wire."""

from __future__ import annotations

import csv
import json
import multiprocessing
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import tapeloom
from tapeloom import FeedSpec, Stack
from tapeloom.errors import ConfigError
from tapeloom_simulator import Fault, serve
from tapeloom_top.app import TopApp
from tapeloom_top.feeding import Feeding
from tapeloom_top.picture import Query
from textual.pilot import Pilot

SYMBOLS = ("BTC/USDT", "ETH/USDT")
#: What stands on each page once it is drawn, also in a small terminal.
DRAWN = ("BTC/USDT", "TRADES", "no gaps", "spot#1", "queue", "connected")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # textual's; the stream's is a parameter


def stack(url: str, **changes: Any) -> Stack:
    feed = FeedSpec("binance", SYMBOLS, ("trades", "quotes"), name="spot", max_attempts=1)
    return Stack(feeds=(feed,), venues={"binance": {"base_url": url}}, **changes)


def text(app: TopApp) -> str:
    """Return what is on the screen, a line for each line of the terminal."""
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)


def written(folder: Path, ending: str) -> list[str]:
    """Return the lines of the one exported file with this ending."""
    (file,) = folder.glob(f"*{ending}")
    return file.read_text(encoding="utf-8").splitlines()


@asynccontextmanager
async def shown(
    opener: Callable[[], tapeloom.Stream], *, size: tuple[int, int] = (80, 24), backend: str = "asyncio",
    **options: Any,
) -> AsyncIterator[Pilot[None]]:  # fmt: skip
    """Run the app over a stream until the block is left."""
    with Feeding(opener, backend) as feeding:
        app = TopApp(feeding, title="test", **options)
        async with app.run_test(size=size, notifications=True) as pilot:
            yield pilot


async def until(pilot: Pilot[None], *wanted: str) -> str:
    """Wait until all of these are on the screen; return what is on it."""
    with anyio.move_on_after(30):
        while not all(part in text(pilot.app) for part in wanted):  # type: ignore[arg-type]
            await pilot.pause(0.05)
    found = text(pilot.app)  # type: ignore[arg-type]
    assert all(part in found for part in wanted), f"{wanted} are not all in\n{found}"
    return found


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
async def test_every_page_shows_a_stream_of_either_event_loop(url: str, backend: str) -> None:
    opener = partial(tapeloom.open, stack(url, backend=backend))
    async with shown(opener, backend=backend) as pilot:
        await until(pilot, "live", "conn 1/1", "BTC/USDT", "ETH/USDT", "▲")
        await pilot.press("2")
        await until(pilot, "binance BTC/USDT 1s candles", "█", "vol", "marks", "TRADES")
        await pilot.press("+", "+", "n")
        await until(pilot, "binance ETH/USDT 15s candles")
        await pilot.press("3")
        await until(pilot, "no gaps")
        await pilot.press("4")
        await until(pilot, "CONNECTION", "spot#1", "open", "4/4", "trades quotes BTC/USDT")
        await pilot.press("5")
        await until(pilot, "top (block)")
        await pilot.press("6")
        await until(pilot, "connected", "subscribed", "spot#1: 4 subscriptions")


async def test_filter_order_pause_help_and_export(url: str, tmp_path: Path) -> None:
    async with shown(partial(tapeloom.open, stack(url)), folder=tmp_path) as pilot:
        await until(pilot, "BTC/USDT", "ETH/USDT")
        await pilot.press("slash", *"eth", "enter")
        filtered = await until(pilot, "/eth", "ETH/USDT")
        assert "BTC/USDT" not in filtered
        await pilot.press("e")
        await until(pilot, "written", "1 symbols")
        await pilot.press("escape")
        await until(pilot, "BTC/USDT")
        await pilot.press("o")
        await until(pilot, "by rate")
        await pilot.press("space")
        paused = await until(pilot, "PAUSED")
        await pilot.pause(0.6)
        assert text(pilot.app).splitlines()[3:6] == paused.splitlines()[3:6]  # type: ignore[arg-type]
        await pilot.press("space", "question_mark")
        await until(pilot, "order of the symbols", "unrecoverable")
        await pilot.press("escape", "down", "enter")
        await until(pilot, "1s candles")

    (row,) = csv.DictReader(written(tmp_path, ".symbols.csv"))
    assert (row["venue"], row["symbol"]) == ("binance", "ETH/USDT")
    assert float(row["last"]) > 0
    assert written(tmp_path, ".gaps.jsonl") == []


async def test_an_export_that_cannot_be_written_is_said(url: str, tmp_path: Path) -> None:
    async with shown(partial(tapeloom.open, stack(url)), folder=tmp_path / "no") as pilot:
        await until(pilot, "BTC/USDT")
        await pilot.press("e")
        await until(pilot, "cannot write")


async def test_the_gaps_of_the_stream_are_in_the_ledger_and_in_the_export(tmp_path: Path) -> None:
    pytest.importorskip("tapeloom_binance", reason="there is no venue to simulate")
    fault = Fault(kind="disconnect", how="abrupt", after=100, every=400, count=5, channel="trades")
    async with serve(
        "binance", symbols=[*SYMBOLS], seed=7, rate=200, faults=[fault], start="first_subscription"
    ) as simulator:
        opener = partial(tapeloom.open, stack(simulator.url))
        async with shown(opener, folder=tmp_path, size=(120, 40)) as pilot:
            await pilot.press("3")
            await until(pilot, "disconnect", *SYMBOLS)
            await pilot.press("e")
            await until(pilot, "written")

    assert {json.loads(line)["cause"] for line in written(tmp_path, ".gaps.jsonl")} == {
        "disconnect"
    }


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (30, 8)])
async def test_no_page_is_wider_than_the_terminal(url: str, size: tuple[int, int]) -> None:
    async with shown(partial(tapeloom.open, stack(url)), size=size) as pilot:
        await until(pilot, "BTC/USDT")
        for page, drawn in zip("123456", DRAWN, strict=True):
            await pilot.press(page)
            await until(pilot, drawn)
            lines = text(pilot.app).splitlines()  # type: ignore[arg-type]
            assert len(lines) == size[1]
            assert {len(line) for line in lines} == {size[0]}


async def test_a_recording_is_shown_and_stays_after_its_end(url: str, tmp_path: Path) -> None:
    async with tapeloom.open(stack(url), record=tmp_path) as stream:
        seen = 0
        async for batch in stream.batches(tapeloom.Trade):
            seen += len(batch)
            if seen > 100:
                break

    async with shown(partial(tapeloom.replay, tmp_path, stack(url))) as pilot:
        await until(pilot, "ended", "BTC/USDT", "ETH/USDT")
        await pilot.press("2")
        await until(pilot, "candles", "█")
        rows = pilot.app.source.read(Query("symbols")).rows  # type: ignore[attr-defined]
        assert sum(row.trades for row in rows) >= seen


async def test_a_stream_that_fails_says_so_and_the_error_is_that_of_the_command(url: str) -> None:
    dead = stack("http://127.0.0.1:9")
    with Feeding(partial(tapeloom.open, dead)) as feeding:
        app = TopApp(feeding, title="test")
        async with app.run_test(size=(120, 24)) as pilot:
            await until(pilot, "feed 'spot'")

    assert "feed 'spot'" in feeding.problem
    assert feeding.exit_code == 1


def test_mistakes_of_the_stack_are_raised_before_there_is_a_screen(url: str) -> None:
    wrong = {"feed": [{"venue": "binance", "symbols": ["BTC/USDT"], "channels": ["tradez"]}]}
    with pytest.raises(ConfigError) as here:
        tapeloom.open(wrong)

    with pytest.raises(ConfigError, match="tradez") as there:
        Feeding(partial(tapeloom.open, wrong)).__enter__()

    assert str(there.value) == str(here.value)
    assert there.value.mistakes == here.value.mistakes
    assert multiprocessing.active_children() == []
