"""The contract of sinks, with one shard and with several, against a real server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tapeloom_testing.contract import SinkContract
from tapeloom_testing.services import NatsServer, free_port


class TestNats(SinkContract):
    sink = "nats"
    url: str
    read: Callable[..., list[Any]]
    shards: int = 1

    @pytest.fixture(autouse=True)
    def _real_server(self, server: NatsServer, read_stream: Callable[..., list[Any]]) -> None:
        self.url = server.url
        self.read = read_stream

    def settings(self, folder: Path) -> Mapping[str, Any]:
        name = folder.name
        return {"servers": self.url, "stream": name, "prefix": name, "shards": self.shards}

    def failing(self, folder: Path) -> Mapping[str, Mapping[str, Any]]:
        closed = f"nats://127.0.0.1:{free_port()}"
        (folder / "credentials").write_text("none")
        return {
            "nothing listens": {"servers": closed},
            "credentials that cannot be read, or not without nkeys": {
                "servers": [closed, self.url], "credentials": str(folder / "missing"),
            },
            "a file that is no certificate": {"servers": self.url, "ca": str(folder / "credentials")},
        }  # fmt: skip

    def stored(self, folder: Path) -> Sequence[Any]:
        found = self.read(self.url, folder.name, f"{folder.name}.*.*")
        return [event.fields for event in found]


class TestShards(TestNats):
    """Events are in order by symbol: each symbol has one subject."""

    shards = 7
    order = "symbol"

    # `test_delivery` kills processes that write several shards.
    test_its_guarantee_holds_when_the_process_is_killed = None
    test_what_it_acknowledged_survives_the_end_of_the_process = None
    test_the_committed_conformance_equals_the_results = None
