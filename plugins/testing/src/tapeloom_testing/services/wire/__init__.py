"""The protocols that `TcpProxy` can read: what the requests are, and which answer is whose."""

from __future__ import annotations

from .dialogue import Dialogue, RawDialogue
from .nats import NatsDialogue, nats_subject
from .postgres import PostgresDialogue, is_commit
from .redis import RedisDialogue, redis_command

__all__ = [
    "Dialogue",
    "NatsDialogue",
    "PostgresDialogue",
    "RawDialogue",
    "RedisDialogue",
    "is_commit",
    "nats_subject",
    "redis_command",
]
