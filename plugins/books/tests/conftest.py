from __future__ import annotations

import os
from pathlib import Path

import pytest
from tapeloom.events import Book
from tapeloom.plugin import Feed, HistoryQuery
from tapeloom_books import Books, Settings

SECOND = 1_000_000_000


class StoppedClock:
    """A clock for stages that must not look at it."""

    def time_ns(self) -> int:
        raise AssertionError("a stage read the clock")

    monotonic = sleep = time_ns


class Bench:
    """A stage of books, and what it asked for."""

    def __init__(self, **settings) -> None:
        self.wants: list[HistoryQuery] = []
        self.feed = Feed(
            "f",
            "acme",
            symbols=["A/B", "C/D"],
            clock=StoppedClock(),
            query_history=self.wants.append,
        )
        self.stage = Books(self.feed, Settings(**settings))

    def book(self, symbol="A/B", channel="book"):
        return self.stage.books[symbol, channel]

    def send(self, *events):
        return self.stage(list(events))


@pytest.fixture(scope="session")
def bench():
    return Bench


@pytest.fixture(scope="session")
def delta():
    def make(first, last, bids=(), asks=(), *, previous=None, symbol="A/B", recv=0, **more):
        return Book(
            "acme",
            symbol,
            (last or 0) * 1000,
            recv,
            "delta",
            bids,
            asks,
            first,
            last,
            previous,
            **more,
        )

    return make


@pytest.fixture(scope="session")
def snapshot():
    def make(last, bids=(), asks=(), *, symbol="A/B", origin="history", recv=0, **more):
        return Book(
            "acme", symbol, 7, recv, "snapshot", bids, asks, None, last, None, origin=origin, **more
        )

    return make


@pytest.fixture(scope="session")
def captures():
    root = Path(__file__).parents[3]
    folder = Path(os.environ.get("TAPELOOM_CAPTURES", root.parent / "shared" / "data"))
    if not (folder / "oracles" / "oracles.json").is_file():
        pytest.skip(f"no captures in {folder}; set TAPELOOM_CAPTURES to their folder")
    return folder
