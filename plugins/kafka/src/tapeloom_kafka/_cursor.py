"""How far a sink is, as messages in a compacted topic.

The key ``last EPOCH`` has the number of the last event of a run, ``position KEY`` a position. They are
written in the transaction of their events. Only one sink writes to a topic: so no transaction of another
one, which may be open for long, hides what is committed.
"""

from __future__ import annotations

from collections.abc import Iterator

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition
from tapeloom.errors import SinkUnavailable
from tapeloom.plugin import Resume, SinkBatch

from ._failures import Brokers
from ._settings import Settings

__all__ = ["messages", "read"]

_LAST, _POSITION = "last ", "position "
#: Number of messages that are read at once.
_READ = 1000


def messages(batch: SinkBatch) -> Iterator[tuple[str, str]]:
    """Yield key and value of the messages that belong to a batch."""
    for key, text in batch.positions.items():
        yield f"{_POSITION}{key}", text
    yield f"{_LAST}{batch.epoch}", str(batch.last)


def read(settings: Settings, brokers: Brokers, topic: str, epoch: int) -> Resume:
    """Read the topic to its end. Raises SinkUnavailable or SinkRefused."""
    last, positions = 0, {}
    for key, value in _all(settings, brokers, topic):
        if key == f"{_LAST}{epoch}":
            last = int(value)
        elif key.startswith(_POSITION):
            positions[key.removeprefix(_POSITION)] = value
    return Resume(last, positions)


def _all(settings: Settings, brokers: Brokers, topic: str) -> Iterator[tuple[str, str]]:
    """Yield key and value of all committed messages of a topic, in order for each key."""
    consumer = Consumer(
        {
            **settings.client(),
            "error_cb": brokers.note,
            "group.id": "tapeloom",  # required, but not used: nothing is committed
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,  # the end is known only after this wait
        }
    )
    try:
        # A consumer that has not asked for the leaders waits for half a second before it reads.
        found = consumer.list_topics(topic, timeout=settings.seconds).topics[topic]
        if found.error is not None or not found.partitions:
            raise SinkUnavailable(
                f"the Kafka brokers {settings.servers} do not name the partitions of {topic!r} yet:"
                f" {found.error}. Wait, or create the topic."
            )
        yield from _to_end(settings, brokers, consumer, topic, list(found.partitions))
    finally:
        consumer.close()


def _to_end(
    settings: Settings, brokers: Brokers, consumer: Consumer, topic: str, partitions: list[int]
) -> Iterator[tuple[str, str]]:
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
    at_end: set[int | None] = set()
    while len(at_end) < len(partitions):
        found = consumer.consume(1, timeout=settings.seconds)
        if not found:
            raise SinkUnavailable(
                f"the Kafka brokers {settings.servers} did not let the topic {topic!r} be read in time."
                " If they are only slow, raise timeout."
            )
        for message in (*found, *consumer.consume(_READ, timeout=0)):
            if (error := message.error()) is None:
                yield _pair(message)
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # the client's name for it
                at_end.add(message.partition())
            else:
                raise brokers.error(error, f"read the topic {topic!r}")


def _pair(message: Message) -> tuple[str, str]:
    key, value = message.key() or b"", message.value() or b""
    return key.decode(errors="replace"), value.decode(errors="replace")
