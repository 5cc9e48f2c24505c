"""Feeds of Hyperliquid composed as by core, and recorded frames."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tapeloom_hyperliquid
from tapeloom.plugin import Feed, Frames
from tapeloom_testing import captures as captures_folder

ROOT = Path(__file__).parents[3]


class Stopped:
    """A clock that never advances."""

    def time_ns(self) -> int:
        return 1_000_000_000_000_000_000

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here waits")


@pytest.fixture(scope="session")
def make() -> Callable[..., Feed]:
    """Return a function that makes a feed whose symbols are named."""

    def made(
        market: str = "perp",
        symbols: tuple[str, ...] = ("BTC/USDC:USDC",),
        channels: tuple[str, ...] = ("trades",),
        **settings: Any,
    ) -> Feed:
        own = tapeloom_hyperliquid.Settings(**settings)
        feed = Feed("f", "hyperliquid", market, [*symbols], channels, settings=own, clock=Stopped())
        codec = tapeloom_hyperliquid.subscribe(feed)
        for symbol in symbols:
            feed.listing.add(symbol, codec.native(symbol))
        return feed

    return made


@pytest.fixture(scope="session")
def captures() -> Path:
    folder = captures_folder(ROOT)
    if folder is None or not (folder / "hyperliquid").is_dir():
        pytest.skip("no captures: set TAPELOOM_CAPTURES")
    return folder


@pytest.fixture(scope="session")
def recorded(captures: Path) -> Callable[[str], Frames]:
    """Return a function that reads the frames of a capture."""

    def frames(name: str) -> Frames:
        lines = (captures / f"hyperliquid/{name}.ws.jsonl").read_text().splitlines()
        return Frames((json.loads(line)["frame"].encode() for line in lines), recv=7)

    return frames
