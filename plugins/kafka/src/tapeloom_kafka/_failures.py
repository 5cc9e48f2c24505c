"""Turns the client's exceptions into errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException, Producer
from tapeloom.errors import BatchRefused, SinkError, SinkRefused, SinkUnavailable, printable

__all__ = ["Brokers"]

#: What to do about errors that do not pass, by their names.
_LASTING = {
    "_AUTHENTICATION": "Correct username, password and mechanism.",
    "SASL_AUTHENTICATION_FAILED": "Correct username and password.",
    "UNSUPPORTED_SASL_MECHANISM": "Set mechanism to one that the brokers have.",
    "_SSL": "Set ca to the file with the brokers' certificate, or tls to what the port expects.",
    "TOPIC_AUTHORIZATION_FAILED": "Grant the user Write and Describe on the events' topics, Read as well on"
    " the cursor's.",
    "CLUSTER_AUTHORIZATION_FAILED": "Grant the user Create and IdempotentWrite on the cluster, or create"
    " the topics yourself.",
    "TRANSACTIONAL_ID_AUTHORIZATION_FAILED": "Grant the user Write and Describe on the transactional id,"
    " or set transactions = false.",
    "GROUP_AUTHORIZATION_FAILED": "Grant the user Read on the group of this name.",
    "INVALID_REPLICATION_FACTOR": "There are too few brokers: set replicas, or create the topics yourself.",
    "INVALID_PARTITIONS": "Set partitions.",
    "POLICY_VIOLATION": "The brokers have a policy for topics: create them yourself.",
    "INVALID_TRANSACTION_TIMEOUT": "Set a lower timeout.",
    "_UNSUPPORTED_FEATURE": "The brokers are too old: use Kafka 2.4 or newer, or set transactions = false.",
    "UNSUPPORTED_VERSION": "The brokers are too old: use Kafka 2.4 or newer, or set transactions = false.",
    "_INVALID_ARG": "Correct options and ca.",
}
_CONTENT = frozenset({"MSG_SIZE_TOO_LARGE", "INVALID_MSG_SIZE", "INVALID_RECORD"})
_TAKEN_OVER = frozenset({"_FENCED", "PRODUCER_FENCED", "INVALID_PRODUCER_EPOCH"})


class Brokers:
    """The brokers at an address: explains errors with the last one that the client reported."""

    def __init__(self, servers: str) -> None:
        self._servers = servers
        self._last: KafkaError | None = None
        #: The client whose errors are reported; it calls `note` only while it is polled.
        self.client: Producer | None = None

    def note(self, error: KafkaError) -> None:
        """Keep an error that the client reports while it tries again by itself."""
        # "all brokers are down" follows the error that says why
        if self._last is None or error.name() != "_ALL_BROKERS_DOWN":
            self._last = error

    @contextmanager
    def explained(self, action: str) -> Iterator[None]:
        """Raise SinkUnavailable, SinkRefused or BatchRefused for an exception of the client."""
        self._last = None
        try:
            yield
        except KafkaException as error:
            if self.client is not None:
                self.client.poll(0)
            raise self.error(error.args[0], action) from error
        except BufferError as error:
            raise BatchRefused(
                "the batch does not fit into the client's queue. Set a lower max_batch."
            ) from error

    def error(self, error: KafkaError, action: str) -> SinkError:
        """Return the error of tapeloom for one of the client."""
        name, last = error.name(), self._last
        if name in {"_TRANSPORT", "_TIMED_OUT", "_ALL_BROKERS_DOWN"} and last is not None:
            name, error = last.name(), last
        reason = printable(error.str()).rstrip(".")
        problem = f"the Kafka brokers {self._servers} failed to {action}: {reason}."
        if name in _LASTING:
            return SinkRefused(f"{problem} {_LASTING[name]}")
        if name in _CONTENT:
            return BatchRefused(
                f"{problem} Raise the topic's max.message.bytes, and message.max.bytes in options."
            )
        if name in _TAKEN_OVER:
            return SinkUnavailable(
                f"{problem} Another process writes as this sink, or this one was paused. If that goes on,"
                " end the other one, or give this sink another name."
            )
        return SinkUnavailable(
            f"{problem} Check that the brokers run, and the addresses in servers."
        )
