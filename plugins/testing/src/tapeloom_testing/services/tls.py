"""An end point that speaks TLS in front of a server that does not."""

from __future__ import annotations

import socket
import ssl
import threading
from types import TracebackType
from typing import Self

__all__ = ["TlsEndPoint"]

_HOST = "127.0.0.1"


class TlsEndPoint:
    """Accepts connections with TLS on a loopback port, and forwards what they say to *server_port*.

    *context* has the certificate. A client that does not trust it is disconnected. For PostgreSQL the
    client needs `sslnegotiation=direct`, and *context* the protocol "postgresql".
    """

    def __init__(self, server_port: int, context: ssl.SSLContext) -> None:
        self._server_port = server_port
        self._context = context
        self._listener = socket.create_server((_HOST, 0))
        self.port: int = self._listener.getsockname()[1]  #: The port for clients.

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # it was closed
                return
            threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        with client:
            try:
                decrypted = self._context.wrap_socket(client, server_side=True)
            except OSError:  # the client does not trust the certificate
                return
            with decrypted, socket.create_connection((_HOST, self._server_port)) as server:
                answers = threading.Thread(target=_copy, args=(server, decrypted), daemon=True)
                answers.start()
                _copy(decrypted, server)
                answers.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Send all that *source* sends to *target*, and its end."""
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:  # one of them has gone
        pass
