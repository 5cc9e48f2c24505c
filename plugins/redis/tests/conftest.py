"""A server, the events of a market, and core's own way of writing them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import redis
from tapeloom.events import Event, decode
from tapeloom_testing.contract.sinks.market import market_events, write_events
from tapeloom_testing.services import RedisServer


@pytest.fixture(scope="session")
def durable_server() -> Iterator[RedisServer]:
    with RedisServer(appendfsync="always") as server:
        yield server


@pytest.fixture
def server(durable_server: RedisServer) -> RedisServer:
    """An empty server."""
    with redis.Redis(port=durable_server.port) as client:
        client.flushall()
    return durable_server


@pytest.fixture
def market() -> Callable[[int], list[Event]]:
    """Events of all types, see `market_events`."""
    return market_events


@pytest.fixture
def write_all(tmp_path: Path) -> Callable[..., Counter[str]]:
    """Core's own writer, see `write_events`."""
    return partial(write_events, folder=tmp_path)


@pytest.fixture
def stored(durable_server: RedisServer) -> Callable[..., list[Event]]:
    """What an independent client reads of all streams, in order of the entries' ids."""

    def read(pattern: str = "tapeloom:*") -> list[Event]:
        found = []
        with redis.Redis(port=durable_server.port) as client:
            for key in client.scan_iter(pattern, _type="stream"):
                for entry, fields in client.xrange(key):
                    epoch, number = map(int, entry.split(b"-"))
                    found.append((epoch, number, decode(fields[b"event"])))
        return [event for _, _, event in sorted(found, key=lambda row: row[:2])]

    return read
