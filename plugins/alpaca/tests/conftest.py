"""Feeds of Alpaca composed as by core, and recorded messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tapeloom_alpaca
from tapeloom import Secret
from tapeloom.plugin import Feed
from tapeloom_testing import VirtualClock
from tapeloom_testing import captures as folder

MakeFeed = Callable[..., Feed]
FAKE = {"key_id": Secret("PKNOTAKEY"), "secret_key": Secret("not-a-secret-either")}


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Everything that waits is tested on both event loops."""
    return request.param


@pytest.fixture(scope="session")
def make() -> MakeFeed:
    """Return a function that makes a feed whose symbols are named."""

    def made(
        market: str = "stocks",
        symbols: tuple[str, ...] = ("AAPL/USD",),
        channels: tuple[str, ...] = ("trades",),
        **settings: Any,
    ) -> Feed:
        own = tapeloom_alpaca.Settings(**(FAKE | settings))
        clock = VirtualClock(1_800_000_000_000_000_000)
        feed = Feed("f", "alpaca", market, [*symbols], channels, settings=own, clock=clock)
        codec = tapeloom_alpaca.subscribe(feed)
        for symbol in symbols:
            feed.listing.add(symbol, codec.native(symbol))
        return feed

    return made


@pytest.fixture(scope="session")
def captures() -> Path:
    """Return the folder of Alpaca's recordings."""
    found = folder(Path(__file__).parents[3])
    if found is None or not (found / "alpaca").is_dir():
        pytest.skip("no recordings of alpaca; set TAPELOOM_CAPTURES")
    return found / "alpaca"
