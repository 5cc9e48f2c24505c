"""Creates the topics that are missing."""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType  # type: ignore[attr-defined]  # documented, not marked as exported

from ._failures import Brokers
from ._settings import Settings

__all__ = ["CURSOR_CONFIG", "cleanup_policies", "create"]

#: The topic of cursor and positions keeps the newest message of each key. Small segments, because the
#: newest one is never compacted, and all of it is read when the sink opens.
CURSOR_CONFIG = {
    "cleanup.policy": "compact",
    "segment.bytes": str(16 << 20),
    "segment.ms": str(3_600_000),
    "min.cleanable.dirty.ratio": "0.1",
}


def _admin(settings: Settings, brokers: Brokers) -> AdminClient:
    options: dict[str, Any] = {**settings.client(), "error_cb": brokers.note}
    return AdminClient(options)


def create(
    settings: Settings, brokers: Brokers, name: str, partitions: int, config: dict[str, str]
) -> None:
    """Create a topic, unless it exists by now. Raises SinkUnavailable or SinkRefused."""
    topic = NewTopic(name, partitions or -1, settings.replicas or -1, config=config)
    with brokers.explained(f"create the topic {name!r}, which is missing"):
        admin = _admin(settings, brokers)  # as long as it lives, it waits for the answer
        made = admin.create_topics(
            [topic], operation_timeout=settings.seconds, request_timeout=settings.seconds
        )
        try:
            made[name].result()
        except KafkaException as error:
            if error.args[0].name() != "TOPIC_ALREADY_EXISTS":
                raise


def cleanup_policies(settings: Settings, brokers: Brokers, names: list[str]) -> dict[str, str]:
    """Return the ``cleanup.policy`` of topics; an empty text where the brokers do not tell."""
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    admin, policies = _admin(settings, brokers), dict.fromkeys(names, "")
    try:
        seconds = min(settings.seconds, 2.0)
        found: dict[Any, Any] = admin.describe_configs(resources, request_timeout=seconds)
        for resource, answer in found.items():
            policies[resource.name] = str(answer.result()["cleanup.policy"].value)
    except (KafkaException, KeyError):
        pass  # the user may not read it
    return policies
