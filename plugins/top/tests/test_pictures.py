"""The pictures of the documentation: the app over a simulated market, the same on each run.

``TAPELOOM_PICTURES=1 pytest plugins/top/tests/test_pictures.py`` writes them anew; else they are compared.
Events and prices are those of the simulated venue, streamed over the wire. What a clock would have said,
our times and those of the connections and stages, is replaced by fixed values; and two gaps are cut out of
the stream, since none arises by itself that is the same each time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
import tapeloom
from tapeloom import FeedSpec, Gap, Stack, Status, Trade
from tapeloom.events import BaseEvent
from tapeloom.plugin import StageTime, StreamState
from tapeloom_screens import Market
from tapeloom_simulator import serve
from tapeloom_top.app import TopApp
from tapeloom_top.picture import Picture, Query
from tapeloom_top.picture import picture as drawn_of

pytest.importorskip("tapeloom_binance", reason="there is no venue to simulate")
pytest.importorskip("tapeloom_books", reason="there is no order book")

FOLDER = Path(__file__).parents[3] / "docs/pictures"
SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT")
SECOND = 1_000_000_000
EPOCH = 1_767_225_600 * SECOND
TRADES = 2_000
#: Seconds of the market's time without trades of the first symbol, and the state of their gap.
CUT = {(41, 46): "unrecoverable", (70, 72): "partial"}
#: Key of a page, name of its picture, size of the terminal.
PICTURES = (
    ("1", "symbols", (80, 10)), ("2", "symbol", (100, 30)), ("3", "gaps", (80, 10)),
)  # fmt: skip


class Still:
    """A market to which nothing is added any more."""

    def __init__(self, market: Market) -> None:
        self.market = market

    def read(self, query: Query) -> Picture:
        return drawn_of(self.market, query, self.market.health())


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def streamed() -> tuple[list[BaseEvent], StreamState]:
    """Return all events of a simulated market, and a state of their stream."""
    feed = FeedSpec("binance", SYMBOLS, ("trades", "book"), market="spot", stages=("books",))
    simulation = serve(
        "binance", symbols=list(SYMBOLS), seed=11, rate=20, speed=100, trades=TRADES, epoch=EPOCH,
        start="first_subscription",
    )  # fmt: skip
    events: list[BaseEvent] = []
    traded = 0
    async with simulation as sim:
        stack = Stack(
            feeds=(feed,), venues={"binance": sim.settings}, stages={"books": {"depth": 20}}
        )
        async with tapeloom.open(stack) as stream:
            async for batch in stream.batches():
                events += batch
                traded += sum(type(event) is Trade for event in batch)
                if traded == TRADES:
                    break
            return events, stream.state()


def fixed(events: Sequence[BaseEvent]) -> list[BaseEvent]:
    """Return the trades and what belongs to them, with times of ours that no clock has said."""
    last = max(event.ts for event in events if type(event) is Trade)
    kept = []
    for event in events:
        if type(event) in (Gap, Status) or event.ts > last or is_cut(event):
            continue
        number = event.ts // 1_000_000
        kept.append(attrs.evolve(event, recv=event.ts + (11 + number * 7919 % 23) * 1_000_000))  # type: ignore[misc]
    kept.sort(key=lambda event: (event.ts, event.symbol, event.type))
    for (since, until), state in CUT.items():
        first, end = EPOCH + since * SECOND, EPOCH + until * SECOND
        kept.append(
            Gap(
                "binance",
                SYMBOLS[0],
                end,
                end,
                first,
                end,
                "disconnect",
                37,
                state,
                "trades",
                since,
            )
        )  # type: ignore[arg-type]
    end = EPOCH + 60 * SECOND
    kept.append(
        Gap(
            "binance",
            "ETH/USDT",
            end,
            end,
            end - 2 * SECOND,
            end,
            "stall",
            0,
            "filled",
            "trades",
            1,
        )
    )
    return kept


def is_cut(event: BaseEvent) -> bool:
    at = (event.ts - EPOCH) / SECOND
    return event.symbol == SYMBOLS[0] and type(event) is Trade and any(
        since < at < until for since, until in CUT
    )  # fmt: skip


def states(state: StreamState, now: int) -> tuple[StreamState, StreamState]:
    """Return two states of the stream, a second apart, with fixed times and counts."""
    (feed,) = state.feeds
    connections = tuple(attrs.evolve(found, connected_seconds=101.0) for found in feed.connections)

    def at(second: int) -> StreamState:
        frames = {"frames": 61 * second}
        stages = {"books": StageTime(0.0006 * second, 61 * second, 74 * second)}
        fed = attrs.evolve(
            feed, connections=connections, clock_offset=None, counters=frames, stages=stages
        )
        when = now - SECOND + second * SECOND
        return attrs.evolve(state, at=when, feeds=(fed,), queues=(), counters=frames)

    return at(0), at(1)


@pytest.mark.slow
async def test_the_pictures_show_what_the_app_draws() -> None:
    events, state = await streamed()
    market = Market()
    kept = fixed(events)
    market.add(kept)
    now = max(event.recv for event in kept) + SECOND // 4
    for found in states(state, now):
        market.refresh(found)
    drawn = {}
    for page, name, size in PICTURES:
        app = TopApp(Still(market), title="stack.toml")
        async with app.run_test(size=size) as pilot:
            await pilot.press(page)
            await pilot.pause(0.3)
            drawn[name] = picture(app)

    if os.environ.get("TAPELOOM_PICTURES") == "1":
        FOLDER.mkdir(exist_ok=True)
        for name, svg in drawn.items():
            (FOLDER / f"top-{name}.svg").write_text(svg, encoding="utf-8")
    for name, svg in drawn.items():
        stored = (FOLDER / f"top-{name}.svg").read_text(encoding="utf-8")
        assert svg == stored, f"top-{name}.svg is outdated: run this test with TAPELOOM_PICTURES=1"


def picture(app: TopApp) -> str:
    """Return the screen as SVG, which loads no font from elsewhere."""
    svg = app.export_screenshot(title="tapeloom top")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE).rstrip() + "\n"
