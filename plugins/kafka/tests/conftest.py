"""A mock cluster, the events of a market, and core's own way of writing them."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    Message,
    Producer,
    TopicPartition,
)
from tapeloom.events import BY_TYPE, Event, decode
from tapeloom_testing.contract.sinks.market import market_events, write_events
from tapeloom_testing.services import KafkaMockCluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[KafkaMockCluster]:
    with KafkaMockCluster() as found:
        yield found


@pytest.fixture
def table(cluster: KafkaMockCluster) -> dict[str, Any]:
    """The settings of a sink with topics of its own, which exist: the mock cannot create them."""
    name = f"t{uuid.uuid4().hex}"
    toucher = Producer({"bootstrap.servers": cluster.bootstrap_servers, "log_level": 0})
    for topic in [f"{name}.cursor.store", *(f"{name}.{kind}" for kind in BY_TYPE)]:
        toucher.list_topics(topic, timeout=10)
    return {
        "servers": cluster.bootstrap_servers,
        "topic": f"{name}.{{type}}",
        "cursor_topic": f"{name}.cursor.{{sink}}",
    }


@pytest.fixture
def market() -> Callable[[int], list[Event]]:
    """Events of all types, see `market_events`."""
    return market_events


@pytest.fixture
def write_all(tmp_path: Path) -> Callable[..., Counter[str]]:
    """Core's own writer, see `write_events`."""
    return partial(write_events, folder=tmp_path)


@pytest.fixture
def messages() -> Callable[..., list[Message]]:
    """What a consumer of its own reads of all topics of events: committed messages, to the end."""

    def read(table: dict[str, Any], kind: str = "") -> list[Message]:
        consumer = Consumer(
            {
                "bootstrap.servers": table["servers"],
                "group.id": "reader",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 10,
                "log_level": 0,
            }
        )
        prefix = table["topic"].replace("{type}", kind)
        topics = consumer.list_topics(timeout=10).topics
        parts = [
            TopicPartition(name, number, OFFSET_BEGINNING)
            for name, topic in topics.items()
            if name.startswith(prefix) and ".cursor." not in name
            for number in topic.partitions
        ]
        consumer.assign(parts)
        found: list[Message] = []
        ends = 0
        while ends < len(parts):
            for message in consumer.consume(1000, timeout=0.1):
                if message.error() is None:
                    found.append(message)
                else:
                    assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                    ends += 1
        consumer.close()
        return found

    return read


@pytest.fixture
def stored(messages: Callable[..., list[Message]]) -> Callable[..., list[Event]]:
    """The events of all messages, in order of their numbers."""

    def read(table: dict[str, Any]) -> list[Event]:
        rows = []
        for message in messages(table):
            headers = dict(message.headers())
            rows.append((int(headers["epoch"]), int(headers["n"]), decode(message.value())))
        return [event for _, _, event in sorted(rows, key=lambda row: row[:2])]

    return read
