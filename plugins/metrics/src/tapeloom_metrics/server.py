"""Answers HTTP requests from threads of its own, within bounds that clients cannot exceed."""

from __future__ import annotations

import contextlib
import hmac
import socket
import threading
import time
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from tapeloom.errors import SinkRefused

from .pages import Page, Pages

#: How many connections are served at a time. If there are more, the oldest is closed.
_MAX_CONNECTIONS = 32
#: Seconds after which a connection is closed, whatever it does.
_MAX_SECONDS = 10.0
#: Seconds between two checks of how old connections are.
_CHECK_SECONDS = 0.5


class MetricsServer:
    """Serves *pages* at an address, to clients that send *token* if there is one.

    Raises SinkRefused if the address cannot be used.
    """

    def __init__(self, host: str, port: int, token: str | None, pages: Pages | None) -> None:
        try:
            self._server = _Server(host, port, token, pages)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise SinkRefused(
                f"metrics cannot listen at {host}:{port}: {reason}. Each sink needs an address of its"
                " own: set another port, or end the process that uses this one."
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=[_CHECK_SECONDS], daemon=True, name="metrics"
        )

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering, and close all connections."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Server(ThreadingMixIn, TCPServer):
    """A thread for each connection, of which there are few."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, host: str, port: int, token: str | None, pages: Pages | None) -> None:
        self.pages = pages
        self.token = token
        self._open: OrderedDict[socket.socket, float] = OrderedDict()  # since when, in seconds
        self._lock = threading.Lock()
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, address = info[0][0], info[0][4]
        super().__init__(address, _Handler)  # type: ignore[arg-type]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread; close the oldest one if there are too many."""
        with self._lock:
            if len(self._open) >= _MAX_CONNECTIONS:
                _end(self._open.popitem(last=False)[0])
            self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Close connections that are open for too long."""
        limit = time.monotonic() - _MAX_SECONDS
        with self._lock:
            while self._open and next(iter(self._open.values())) < limit:
                _end(self._open.popitem(last=False)[0])

    def server_close(self) -> None:
        """Stop listening, and close all connections."""
        super().server_close()
        with self._lock:
            while self._open:
                _end(self._open.popitem()[0])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore what a client does, such as closing its end."""


def _end(connection: socket.socket) -> None:
    """Wake the thread of a connection: its next read or write fails, and it closes the connection."""
    with contextlib.suppress(OSError):  # it is closed already
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One request: a connection is closed after its answer."""

    server: _Server
    timeout = _MAX_SECONDS
    server_version, sys_version = "tapeloom", ""

    def do_GET(self) -> None:
        """Answer."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        page = None
        if not self._is_allowed():
            page = Page(401, "text/plain; charset=utf-8", b"")
        elif self.server.pages is not None:
            path = self.path.partition("?")[0]
            page = self.server.pages.get(path, self.headers.get("Accept", ""))
        page = page or Page(404, "text/plain; charset=utf-8", b"there is no such page; see /\n")
        self.send_response(page.code)
        if page.code == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if with_body:
            self.wfile.write(page.body)

    def _is_allowed(self) -> bool:
        token = self.server.token
        if token is None:
            return True
        given = self.headers.get("Authorization", "").encode("utf-8", "replace")
        return hmac.compare_digest(given, f"Bearer {token}".encode())

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that cannot be read, or another method than GET, with no body."""
        if not hasattr(self, "headers") or self._is_allowed():
            self.send_response(code)
        else:
            self.send_response(401)
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: only changes of state are logged."""
