"""What the tests of this plugin share: a clock, and a venue that sends numbered messages."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import asynccontextmanager

import pytest
from tapeloom.errors import ConnectionLost
from tapeloom.plugin import Endpoint
from tapeloom_chaos import Settings, wrap
from tapeloom_testing import LoopClock, virtual_backend


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest):
    return virtual_backend(request.param)


class Line:
    """A connection on which the *reads* come, and then its end."""

    def __init__(self, reads: Sequence[Sequence[bytes]]) -> None:
        self.reads = [list(read) for read in reads]
        self.sent: list[str] = []

    async def receive(self) -> list[bytes]:
        if not self.reads:
            raise ConnectionLost("f", "over", 1000)
        return self.reads.pop(0)

    async def send(self, text: str) -> None:
        self.sent.append(text)

    async def ping(self) -> None:
        self.sent.append("<ping>")


def numbered(count: int, size: int = 10) -> list[list[bytes]]:
    """Return reads of *size* numbered messages each."""
    every = [b"message %d" % number for number in range(1, count + 1)]
    return [every[start : start + size] for start in range(0, count, size)]


class Heard:
    """What came of one or several connections with faults."""

    def __init__(self, reads: Sequence[Sequence[bytes]], **settings: object) -> None:
        self.line = Line(reads)
        self.batches: list[list[bytes]] = []
        self.times: list[float] = []
        self.lost: ConnectionLost | None = None
        self.clock = LoopClock()
        self.chaos = wrap(self._dial, Settings(**settings), self.clock, feed="f")

    @asynccontextmanager
    async def _dial(self, endpoint: Endpoint):
        yield self.line

    async def listen(self):
        """Read until the end."""
        async with self.chaos(Endpoint(url="ws://x")) as link:
            self.link = link
            try:
                while True:
                    self.batches.append(await link.receive())
                    self.times.append(self.clock.monotonic())
            except ConnectionLost as lost:
                self.lost = lost
        return self

    @property
    def numbers(self) -> list[int]:
        """The numbers of the messages as they came."""
        return [int(payload.split()[1]) for batch in self.batches for payload in batch]

    @property
    def done(self) -> list[tuple[str, int]]:
        return [(one.fault, one.message) for one in self.chaos.injected]


@pytest.fixture
def heard():
    return Heard


@pytest.fixture(name="numbered")
def numbered_fixture():
    return numbered
