"""The sink's guarantees, by the contract of sinks, as far as librdkafka's mock cluster can show them."""

from __future__ import annotations

import atexit
from functools import cache

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from tapeloom.events import BY_TYPE, decode
from tapeloom_testing.contract import NotApplicable, SinkContract
from tapeloom_testing.services import KafkaMockCluster, free_port

PASSWORD = "fakekafkaword888"


@cache
def servers() -> str:
    """The brokers of all stores; they end with the process."""
    cluster = KafkaMockCluster()
    cluster.__enter__()
    atexit.register(cluster.__exit__, None, None, None)
    return cluster.bootstrap_servers


class TestKafka(SinkContract):
    sink = "kafka"
    secrets = (PASSWORD,)
    transactions = True

    def settings(self, folder):
        toucher = Producer({"bootstrap.servers": servers(), "log_level": 0})
        sinks = ("contract-sink", "contract-sink-2")
        for topic in [*(f"cursor.{sink}" for sink in sinks), *BY_TYPE]:
            toucher.list_topics(f"{folder.name}.{topic}", timeout=10)  # the mock creates it so
        return {
            "servers": servers(),
            "topic": f"{folder.name}.{{type}}",
            "cursor_topic": f"{folder.name}.cursor.{{sink}}",
            "transactions": self.transactions,
            "timeout": "30s",
        }

    def stored(self, folder):
        consumer = Consumer(
            {
                "bootstrap.servers": servers(),
                "group.id": "reader",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 10,
                "log_level": 0,
            }
        )
        parts = [
            TopicPartition(name, number, OFFSET_BEGINNING)
            for name, topic in consumer.list_topics(timeout=10).topics.items()
            if name.startswith(f"{folder.name}.") and ".cursor." not in name
            for number in topic.partitions
        ]
        consumer.assign(parts)
        rows, ends = [], 0
        while ends < len(parts):
            for message in consumer.consume(1000, timeout=0.1):
                if message.error() is not None:
                    ends += 1
                    continue
                headers = dict(message.headers())
                rows.append((int(headers["epoch"]), int(headers["n"]), message.value()))
        consumer.close()
        return [decode(line) for _, _, line in sorted(rows)]

    def failing(self, folder):
        password = folder / PASSWORD  # the contract looks for the secret in the settings
        password.write_text(PASSWORD)
        secret = {"file": str(password)}
        down = f"127.0.0.1:{free_port()}"
        return {
            "no brokers": {"servers": down, "timeout": "300ms"},
            "no brokers to log in": {
                "servers": down,
                "timeout": "300ms",
                "username": "me",
                "password": secret,
            },
        }

    def _killed(self):
        raise NotApplicable(
            "the mock cluster of the tests shows what a killed process has not committed"
        )


class TestKafkaWithoutTransactions(TestKafka):
    variant = "without-transactions"
    transactions = False

    def _killed(self):
        SinkContract._killed(self)
