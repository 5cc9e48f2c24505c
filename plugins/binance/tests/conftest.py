"""Feeds of Binance as core would compose them, and the recorded frames."""

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


class Stopped:
    """A clock that stands still."""

    def time_ns(self) -> int:
        return 0

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here waits")


@pytest.fixture(scope="session")
def make() -> MakeFeed:
    """Return a function that makes a feed whose symbols are named."""

    def made(
        market: str = "spot",
        symbols: tuple[str, ...] = ("BTC/USDT",),
        channels: tuple[str, ...] = ("trades",),
        **settings: Any,
    ) -> Feed:
        own = tapeloom_binance.Settings(**settings)
        feed = Feed("f", "binance", market, [*symbols], channels, settings=own, clock=Stopped())
        codec = tapeloom_binance.subscribe(feed)
        for symbol in symbols:
            feed.listing.add(symbol, codec.native(symbol))
        return feed

    return made


@pytest.fixture(scope="session")
def captures() -> Path:
    default = Path(__file__).parents[4] / "shared" / "data"
    folder = Path(os.environ.get("TAPELOOM_CAPTURES", default))
    if not (folder / "oracles" / "oracles.json").exists():
        pytest.skip(f"no captures in {folder}; set TAPELOOM_CAPTURES")
    return folder


class Line(msgspec.Struct):
    """A line of a capture."""

    frame: str


@pytest.fixture(scope="session")
def recorded(captures: Path) -> Callable[[str], Frames]:
    """Return a function that reads the frames of a capture."""
    read = msgspec.json.Decoder(Line).decode

    def frames(name: str) -> Frames:
        plain = captures / f"{name}.ws.jsonl"
        packed = captures / f"{name}.ws.jsonl.gz"
        text = gzip.decompress(packed.read_bytes()) if packed.exists() else plain.read_bytes()
        return Frames((read(line).frame.encode() for line in text.splitlines()), recv=7)

    return frames
