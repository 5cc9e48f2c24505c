"""One server for the tests that do not kill it, and a reader that shares no code with the sink.

The reader follows `docs/reference/nats.md`.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any

import anyio
import msgspec
import nats
import pytest
from attrs import frozen
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError
from tapeloom.events import Event
from tapeloom.harness import SystemClock, write_all
from tapeloom_nats import Settings
from tapeloom_nats.sink import NatsSink
from tapeloom_testing.blocking import BlockingSink
from tapeloom_testing.contract.sinks.rows import difference, to_row
from tapeloom_testing.services import NatsServer


@pytest.fixture(scope="session")
def server() -> Iterator[NatsServer]:
    with NatsServer() as running:
        yield running


@pytest.fixture(scope="session")
def read_stream() -> Callable[..., list[Found]]:
    """Return the function that returns the events in a stream: address, name, subject."""
    return read


@frozen
class Found:
    """An event in a stream."""

    shard: str
    epoch: int
    number: int
    fields: dict[str, Any]  #: as in JSON, with the type


def read(url: str, stream: str, subject: str = ">") -> list[Found]:
    """Return the events of the messages of a stream, in its order; none if there is no stream."""
    return list(events(asyncio.run(messages(url, stream, subject))))


async def messages(url: str, stream: str, subject: str = ">") -> list[Msg]:
    client = await nats.connect(url)
    try:
        context = client.jetstream()
        config = ConsumerConfig(ack_policy=AckPolicy.NONE)
        try:
            subscription = await context.pull_subscribe(subject, stream=stream, config=config)
        except NotFoundError:
            return []
        pending = (await subscription.consumer_info()).num_pending
        found: list[Msg] = []
        while len(found) < pending:
            found += await subscription.fetch(min(500, pending - len(found)), timeout=5)
        return found
    finally:
        await client.close()


def events(found: list[Msg]) -> Iterator[Found]:
    bodies: dict[str, bytes] = {}
    for message in found:
        header = json.loads(message.headers["Tapeloom"])
        assert header["version"] == 1
        part, parts = header.get("part", 1), header.get("parts", 1)
        before = b"" if part == 1 else bodies[message.subject]
        bodies[message.subject] = before + message.data
        if part == parts and header["count"]:
            shard = message.subject.rpartition(".")[2]
            body = bodies[message.subject][: header["events_bytes"]]
            for number, fields in sorted(rows(header, body), key=lambda row: row[0]):
                yield Found(shard, header["epoch"], number, fields)


def rows(header: dict[str, Any], body: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the fields of each event of a body."""
    offsets, groups = msgspec.msgpack.decode(body)
    numbers = [header["first"] + offset for offset in offsets or range(header["count"])]
    for name, count, columns, indexes in groups:
        for place, fields in enumerate(unpacked(name, count, columns)):
            yield numbers[indexes[place] if indexes else place], fields


def unpacked(name: str, count: int, columns: Any) -> Iterator[dict[str, Any]]:
    if isinstance(columns, list):
        yield from (json.loads(line) for line in columns)
        return
    for place in range(count):
        values = {key: column[place % len(column)] for key, column in columns.items()}
        yield {"type": name, **{key.removeprefix("raw_"): value for key, value in values.items()}}


class HastyClock(SystemClock):
    """The system's clock, with short pauses between attempts."""

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(min(seconds, 0.02))


@frozen
class Bench:
    """A stream of its own on a server, a sink that writes to it, and a reader."""

    url: str
    name: str
    folder: Path

    def sink(self, **settings: Any) -> BlockingSink:
        """Return a sink; `servers` may be a proxy."""
        given = {"servers": self.url, "stream": self.name, "prefix": self.name, **settings}
        return BlockingSink(NatsSink(Settings(**given)))

    def write(
        self,
        sink: Any,
        events: Sequence[Event],
        *,
        epoch: int = 1,
        sizes: Sequence[int] = (10, 3, 25),
    ) -> Counter[str]:
        """Write events as a stream does, in a run whose store has what it has."""

        sink = sink.sink if isinstance(sink, BlockingSink) else sink

        async def run() -> Counter[str]:
            with anyio.fail_after(60):
                return await write_all(
                    sink, events, epoch=epoch, folder=self.folder, sizes=sizes, clock=HastyClock()
                )

        return anyio.run(run)

    def read(self) -> list[Found]:
        """Return what is in the stream, read directly from the server."""
        return read(self.url, self.name)

    def assert_has(self, events: Sequence[Event]) -> None:
        """Assert that the stream has these events, each once, and each with its number, in order."""
        found = self.read()
        problem = difference(
            [to_row(event) for event in events],
            [to_row(item.fields) for item in found],
            "exactly_once",
            "symbol",
        )
        assert not problem
        assert sorted(item.number for item in found) == list(range(1, len(events) + 1))


@pytest.fixture
def bench(server: NatsServer, tmp_path: Path) -> Bench:
    return Bench(server.url, token_hex(4), tmp_path)


@pytest.fixture(autouse=True)
def _close_sinks() -> Iterator[None]:
    yield
    BlockingSink.close_all()  # what a failed test has left open
