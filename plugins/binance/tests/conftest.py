"""Fixtures: feeds of Binance as core would compose them, and recorded frames."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tapeloom_binance
from tapeloom.plugin import Feed, Frames

MakeFeed = Callable[..., Feed]


class StoppedClock:
    """A clock whose time does not pass."""

    def time_ns(self) -> int:
        return 0

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("these tests must not sleep")


@pytest.fixture(scope="session")
def make() -> MakeFeed:
    """Return a function that makes a feed whose symbols have native names."""

    def make_feed(
        market: str = "spot",
        symbols: tuple[str, ...] = ("BTC/USDT",),
        channels: tuple[str, ...] = ("trades",),
        **settings: Any,
    ) -> Feed:
        venue_settings = tapeloom_binance.Settings(**settings)
        feed = Feed(
            "f",
            "binance",
            market,
            [*symbols],
            channels,
            settings=venue_settings,
            clock=StoppedClock(),
        )
        codec = tapeloom_binance.subscribe(feed)
        for symbol in symbols:
            feed.listing.add(symbol, codec.native(symbol))
        return feed

    return make_feed


@pytest.fixture(scope="session")
def captures() -> Path:
    default = Path(__file__).parents[4] / "shared" / "data"
    folder = Path(os.environ.get("TAPELOOM_CAPTURES", default))
    if not (folder / "oracles" / "oracles.json").exists():
        pytest.skip(f"no captures in {folder}; set TAPELOOM_CAPTURES")
    return folder


class CaptureLine(msgspec.Struct):
    """A line of a capture."""

    frame: str


@pytest.fixture(scope="session")
def recorded(captures: Path) -> Callable[[str], Frames]:
    """Return a function that reads the frames of a capture."""
    read = msgspec.json.Decoder(CaptureLine).decode

    def frames(name: str) -> Frames:
        plain = captures / f"{name}.ws.jsonl"
        compressed = captures / f"{name}.ws.jsonl.gz"
        text = (
            gzip.decompress(compressed.read_bytes()) if compressed.exists() else plain.read_bytes()
        )
        return Frames((read(line).frame.encode() for line in text.splitlines()), recv=7)

    return frames
