"""Fixtures: feeds of Bybit as core would compose them, and recorded frames."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tapeloom_bybit
import tapeloom_testing
from tapeloom.plugin import Feed, Frames

PERP = "BTC/USDT:USDT"


class StoppedClock:
    """A clock whose time does not pass."""

    def time_ns(self) -> int:
        return 0

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("these tests must not sleep")


@pytest.fixture(scope="session")
def make() -> Callable[..., Feed]:
    """Return a function that makes a feed whose symbols have native names."""

    def make_feed(
        market: str = "spot", *channels: str, symbols: tuple[str, ...] = (), **settings: Any
    ) -> Feed:
        feed_symbols = [*symbols] or [PERP if market == "linear" else "BTC/USDT"]
        venue_settings = tapeloom_bybit.Settings(**settings)
        feed = Feed(
            "f",
            "bybit",
            market,
            feed_symbols,
            channels or ("trades",),
            settings=venue_settings,
            clock=StoppedClock(),
        )
        codec = tapeloom_bybit.subscribe(feed)
        for symbol in feed_symbols:
            feed.listing.add(symbol, codec.native(symbol))
        return feed

    return make_feed


@pytest.fixture(scope="session")
def folder() -> Path:
    """Return the folder of Bybit's captures."""
    found = tapeloom_testing.captures(Path(__file__).parents[3])
    if found is None or not (found / "bybit").is_dir():
        pytest.skip("no captures; set TAPELOOM_CAPTURES to their folder")
    return found / "bybit"


@pytest.fixture(scope="session")
def recorded(folder: Path) -> Callable[[str], Frames]:
    """Return a function that reads the frames of a capture."""

    def frames(name: str) -> Frames:
        lines = (folder / f"{name}.ws.jsonl").read_text("utf-8").splitlines()
        return Frames((json.loads(line)["frame"].encode() for line in lines), recv=7)

    return frames


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param
