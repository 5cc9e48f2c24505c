"""Real servers for tests, and a proxy before them that loses answers.

Each server is a context manager: it starts on a free loopback port in a temporary folder, and is
killed with the test, even if the test process dies. `TcpProxy` stands between a client and a
server, and loses the answer to a chosen request after the server has executed it.
"""

from __future__ import annotations

from .installed import ServiceNotInstalled
from .kafka import KafkaMockCluster
from .nats import NatsCluster, NatsServer
from .postgres import PostgresServer
from .proxy import TcpProxy
from .redis import RedisServer
from .service import Service, ServiceFailed, free_port
from .tls import TlsEndPoint
from .wire import (
    Dialogue,
    NatsDialogue,
    PostgresDialogue,
    RawDialogue,
    RedisDialogue,
    is_commit,
    nats_subject,
    redis_command,
)

__all__ = [
    "Dialogue",
    "KafkaMockCluster",
    "NatsCluster",
    "NatsDialogue",
    "NatsServer",
    "PostgresDialogue",
    "PostgresServer",
    "RawDialogue",
    "RedisDialogue",
    "RedisServer",
    "Service",
    "ServiceFailed",
    "ServiceNotInstalled",
    "TcpProxy",
    "TlsEndPoint",
    "free_port",
    "is_commit",
    "nats_subject",
    "redis_command",
]
