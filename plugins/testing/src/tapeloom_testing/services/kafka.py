"""Kafka brokers in memory for tests: the mock cluster of librdkafka, in `confluent-kafka`."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from .installed import not_installed

__all__ = ["KafkaMockCluster"]

#: How long the brokers may take to answer.
ANSWER_SECONDS = 10.0


class KafkaMockCluster:
    """Brokers that speak Kafka's protocol, in threads of this process; needs `tapeloom-testing[kafka]`.

    They prove that our client is used rightly, and nothing more: they keep everything in memory,
    show aborted messages to readers of committed ones, and let a producer commit that was replaced by
    another one with its transactional id. They are no proof that a message is stored once, or at all.
    They cannot be killed or paused, and no proxy can stand before them, because clients dial the
    addresses that the brokers report. Clients in other processes can connect.
    """

    def __init__(self, brokers: int = 3) -> None:
        self.brokers = brokers
        self.bootstrap_servers = ""  #: "host:port,..."; empty until the context is entered
        self._owner: Any = None

    def __enter__(self) -> Self:
        try:
            from confluent_kafka import Producer
        except ImportError:
            not_installed("confluent-kafka", "kafka")
        # The brokers live as long as the client that was configured with them.
        self._owner = Producer({"test.mock.num.brokers": self.brokers})
        found = self._owner.list_topics(timeout=ANSWER_SECONDS).brokers.values()
        self.bootstrap_servers = ",".join(f"{broker.host}:{broker.port}" for broker in found)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._owner = None
