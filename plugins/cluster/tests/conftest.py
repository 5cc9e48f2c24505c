"""A real server, and a node of a cluster with a stream of its own there."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest
from tapeloom_cluster.session import Node
from tapeloom_cluster.shards import ShardTable
from tapeloom_nats import Settings
from tapeloom_testing.services import NatsServer


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with NatsServer() as running:
        yield running


@pytest.fixture
def node(server: NatsServer) -> Node:
    name = f"s{uuid4().hex[:8]}"
    settings = Settings(servers=server.url, stream=name, prefix=name)
    return Node("one", "nats", "writer-1", 1, 1, settings, ShardTable(1))
