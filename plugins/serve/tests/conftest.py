"""A server on a free port, and events to publish."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from decimal import Decimal
from typing import Any

import pytest
from tapeloom import Event, Trade, decode
from tapeloom.errors import SinkUnavailable
from tapeloom_serve import Hub, ServerThread, Settings, application
from websockets.sync.client import ClientConnection, connect


class Served:
    """A hub, its server, and its clients."""

    def __init__(self, settings: Settings) -> None:
        self.hub = Hub()
        self.server = ServerThread(application(self.hub, settings), settings)
        self.server.start()
        self.address = self.server.address

    def publish(self, *events: Event) -> None:
        self.server.call(self.hub.publish, list(events))

    @contextmanager
    def client(self, query: str = "", **options: Any) -> Iterator[ClientConnection]:
        """A client that has been told what it receives."""
        with connect(f"ws://{self.address}/stream{query}", open_timeout=60, **options) as client:
            if "wait=1" not in query:
                assert json.loads(client.recv(60))["type"] == "stream.subscribed"
            yield client

    def stop(self) -> None:
        with suppress(SinkUnavailable):  # a test may have stopped it
            self.server.call(self.hub.close)
        self.server.stop()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Start servers with given settings; all end with the test."""
    with ExitStack() as stack:

        def start(**settings: Any) -> Served:
            served = Served(Settings(**{"port": 0, **settings}))
            stack.callback(served.stop)
            return served

        yield start


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    return serve()


def trade(number: int, symbol: str = "BTC/USDT", venue: str = "venue") -> Trade:
    """A trade whose times grow with its number."""
    ts = 1_700_000_000_000_000_000 + number * 1_000_000
    return Trade(venue, symbol, ts, ts + 5, Decimal("100.50"), Decimal("0.10"), "buy", number)


@pytest.fixture
def make_trade() -> Callable[..., Trade]:
    return trade


@pytest.fixture
def receive() -> Callable[..., list[Event]]:
    """Receive events until there are as many as asked for."""

    def receive(client: ClientConnection, count: int, timeout: float = 20) -> list[Event]:
        found: list[Event] = []
        while len(found) < count:
            found += [decode(line) for line in str(client.recv(timeout)).splitlines()]
        return found

    return receive
