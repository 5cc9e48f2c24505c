"""The sink: writes batches to topics of Kafka."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from confluent_kafka import KafkaError, Producer
from confluent_kafka import Message as Delivered
from tapeloom.errors import BatchRefused, ConfigError, Mistake, SinkRefused, SinkUnavailable
from tapeloom.plugin import Guarantee, Resume, SinkBatch, SinkRun

from . import _cursor, _topics
from ._failures import Brokers
from ._messages import Message, Topics, json_messages
from ._settings import Settings, topic_name

__all__ = ["KafkaSink"]

#: The client's own limit of a message, in bytes, and room for key and headers.
_MAX_MESSAGE, _OVERHEAD = 1_000_000, 1000
#: Seconds after which brokers end the transaction of a process that died: until then, readers of
#: committed messages wait.
_TRANSACTION_SECONDS = 20


class KafkaSink:
    """Writes each batch with its cursor, in one transaction."""

    def __init__(self, settings: Settings) -> None:
        self.guarantee: Guarantee = "exactly_once" if settings.transactions else "at_least_once"
        self._settings = settings
        self._brokers = Brokers(settings.servers)
        self._producer: Producer | None = None
        self._cursor_topic = ""
        self._existing: set[str] = set()
        self._topics_of = Topics(settings.topic)
        self._messages: Callable[[SinkBatch, list[str]], list[Message]] = json_messages
        self._failure: KafkaError | None = None
        limit = settings.options.get("message.max.bytes", _MAX_MESSAGE)
        self._max_message = int(str(limit)) - _OVERHEAD
        if settings.format == "arrow":
            self._messages = partial(_arrow_messages(), max_bytes=self._max_message)

    def open(self, run: SinkRun) -> Resume:
        """Connect, end an earlier transaction of this sink, and return what is stored.

        Creates the topic of the cursor. Raises SinkUnavailable or SinkRefused.
        """
        settings, seconds = self._settings, self._settings.seconds
        self._cursor_topic = _cursor_topic(settings, run.sink)
        with self._brokers.explained("answer"):
            self._producer = producer = Producer(self._producer_options(run.sink))
            self._brokers.client = producer
            self._existing = set(producer.list_topics(timeout=seconds).topics)
        self._create_missing({self._cursor_topic}, 1, _topics.CURSOR_CONFIG)
        with self._brokers.explained("begin"):
            if settings.transactions:
                # From here on no older producer of this sink can commit, and the fate of its last
                # transaction is known.
                producer.init_transactions(seconds)
            return _cursor.read(settings, self._brokers, self._cursor_topic, run.epoch)

    def write(self, batch: SinkBatch) -> None:
        """Write a batch, its number and its positions. Raises SinkUnavailable, SinkRefused or BatchRefused."""
        topics = self._topics_of.of(batch.events)
        messages = self._messages(batch, topics)
        largest = max(len(value) for _, value, _, _ in messages)
        if largest > self._max_message:
            raise BatchRefused(
                f"expected messages of at most {self._max_message} bytes, got {largest}. Raise"
                ' "message.max.bytes" in options, and the topic\'s max.message.bytes.'
            )
        self._create_missing({*topics}, self._settings.partitions, {})
        with self._brokers.explained("write a batch"):
            producer = self._opened
            if self._settings.transactions:
                producer.begin_transaction()
                self._produce(messages)
                self._produce_cursor(batch)
                producer.commit_transaction(self._settings.seconds)
            else:
                self._produce(messages)
                self._flush()
                self._produce_cursor(batch)  # when the events are stored, not before
                self._flush()

    def close(self) -> None:
        """Discard what is not sent; an open transaction is ended by the next `open`."""
        if self._producer is not None:
            self._producer.purge()
        self._producer = self._brokers.client = None

    def check(self) -> list[str]:
        """Return what the brokers have of the sink's topics. Creates and writes nothing."""
        settings = self._settings
        with self._brokers.explained("answer"):
            client = Producer({**settings.client(), "error_cb": self._brokers.note})
            self._brokers.client = client
            found = client.list_topics(timeout=settings.seconds)
        self._brokers.client = None
        lines = [
            f"Kafka cluster {found.cluster_id} at {settings.servers}: {len(found.brokers)} brokers"
        ]
        if settings.transactions:
            lines.append("exactly once: readers must set isolation.level = read_committed")
        else:
            lines.append("at least once: after an error a batch may be written again")
        prefix = settings.cursor_topic.partition("{")[0]
        names = sorted(name for name in found.topics if name.startswith(prefix))
        if names:
            policies = _topics.cleanup_policies(settings, self._brokers, names)
            lines += [_cursor_line(name, policy) for name, policy in policies.items()]
        return lines

    def _producer_options(self, sink: str) -> dict[str, object]:
        settings = self._settings
        found: dict[str, object] = {
            "linger.ms": 5,
            # The partition that clients in Java choose for a key.
            "partitioner": "murmur2_random",
            # A batch is as large as core makes it.
            "queue.buffering.max.messages": 0,
            **settings.client(),
            "compression.type": settings.compression,
            "enable.idempotence": True,
            "error_cb": self._brokers.note,
        }
        if settings.transactions:
            found["transactional.id"] = f"tapeloom.{sink}"
            found.setdefault("transaction.timeout.ms", _TRANSACTION_SECONDS * 1000)
        else:
            found["on_delivery"] = self._on_delivery
            found["delivery.report.only.error"] = True
            found.setdefault("message.timeout.ms", int(settings.seconds * 1000))
        return found

    @property
    def _opened(self) -> Producer:
        if self._producer is None:
            raise SinkUnavailable("the sink is not open")
        return self._producer

    def _create_missing(self, names: set[str], partitions: int, config: dict[str, str]) -> None:
        for name in sorted(names - self._existing):
            _topics.create(self._settings, self._brokers, name, partitions, config)
            self._existing.add(name)

    def _produce(self, messages: list[Message]) -> None:
        produce = self._opened.produce
        for topic, value, key, headers in messages:
            produce(topic, value, key, headers=headers)

    def _produce_cursor(self, batch: SinkBatch) -> None:
        for key, value in _cursor.messages(batch):
            self._opened.produce(self._cursor_topic, value, key)

    def _flush(self) -> None:
        """Wait until all messages are stored. Raises SinkUnavailable or what a delivery failed with."""
        self._failure = None
        waiting = self._opened.flush(self._settings.seconds)
        if self._failure is not None:
            raise self._brokers.error(self._failure, "write a batch")
        if waiting:
            raise SinkUnavailable(
                f"the Kafka brokers {self._settings.servers} did not store {waiting} messages in time. If"
                " they are only slow, raise timeout."
            )

    def _on_delivery(self, error: KafkaError | None, _: Delivered) -> None:
        self._failure = self._failure or error


def _arrow_messages() -> Callable[..., list[Message]]:
    try:
        from ._arrow import arrow_messages
    except ImportError as error:
        problem = (
            f"'arrow' needs the package tapeloom-columns: pip install ./plugins/columns ({error})"
        )
        raise ConfigError([Mistake("format", problem)]) from None
    return arrow_messages


def _cursor_topic(settings: Settings, sink: str) -> str:
    try:
        return topic_name(settings.cursor_topic, sink=sink)
    except ValueError as error:
        raise SinkRefused(f"{error}. Give the sink another name, or set cursor_topic.") from None


def _cursor_line(name: str, policy: str) -> str:
    if policy and "compact" not in policy:
        return (
            f"the topic {name!r} of the cursor has cleanup.policy = {policy}: its messages are deleted after a"
            " while, and then events are written twice. Set it to compact."
        )
    return f"the topic {name!r} of the cursor is there, cleanup.policy = {policy or 'unknown'}"
