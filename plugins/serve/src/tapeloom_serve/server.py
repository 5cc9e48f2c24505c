"""Runs an ASGI application in a thread with an event loop of its own, beside the stream's."""

from __future__ import annotations

import asyncio  # noqa: TID251 - uvicorn runs on asyncio only, in a loop of its own
import contextlib
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

import uvicorn
from tapeloom.errors import SinkRefused, SinkUnavailable

from .guard import Guard
from .settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["ServerThread"]

T = TypeVar("T")
#: Connections that the system may hold until they are accepted.
_BACKLOG = 2048
#: Seconds that connections have at the end to close.
_SHUTDOWN_SECONDS = 1.0
#: Seconds that the loop may take to do what it is asked to.
_CALL_SECONDS = 30.0
#: Bytes that the system holds for each client that reads too slowly. By default it is several MB, and such
#: a client would get old events for long before any is dropped.
_SEND_BUFFER_BYTES = 262_144
#: Bytes of a message of a client.
_MAX_MESSAGE_BYTES = 65_536


class ServerThread:
    """Serves an ASGI application until it is stopped. The stream's event loop may be of any library.

    The port is bound by the constructor, so that `address` is known before `start`. Raises SinkRefused if
    that is not possible. With *lifespan*, the application is told when the server starts and ends.
    """

    def __init__(self, app: ASGIApp, settings: Settings, *, lifespan: bool = False) -> None:
        self._socket = _bind(settings.host, settings.port)
        self.guard = Guard(
            settings.max_connections, settings.request_timeout / 1e9, settings.send_timeout / 1e9
        )
        http, websocket = self.guard.protocols
        self._server = _Server(
            uvicorn.Config(
                app,
                http=http,
                ws=websocket,
                ws_max_size=_MAX_MESSAGE_BYTES,
                ws_per_message_deflate=False,  # costs more CPU time than all the rest
                lifespan="on" if lifespan else "off",
                log_config=None,
                access_log=False,  # a token may stand in an address
                log_level="critical",  # what clients do wrong is not this program's error
                proxy_headers=False,
                server_header=False,
                date_header=False,
                timeout_graceful_shutdown=int(_SHUTDOWN_SECONDS),
                backlog=_BACKLOG,
            )
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="tapeloom-serve", daemon=True)
        self._failure: BaseException | None = None

    @property
    def address(self) -> str:
        """Host and port, as in an address."""
        host, port = self._socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def start(self) -> None:
        """Start the thread; return when connections are accepted. Raises SinkUnavailable if it fails."""
        self._thread.start()
        self._server.is_up.wait(_CALL_SECONDS)
        if self._failure is not None or not self._server.started:
            raise SinkUnavailable(f"the server did not start: {self._failure!r}")

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function in the loop of the server, and return its result.

        Blocks: it is for other threads than those of event loops. Raises SinkUnavailable if the server has
        ended, or if its loop does not come to it.
        """
        loop, future = self._loop, Future[T]()

        def run() -> None:
            try:
                future.set_result(function(*args))
            except BaseException as error:
                future.set_exception(error)

        try:
            if loop is None:
                raise RuntimeError("it was not started")
            loop.call_soon_threadsafe(run)
            return future.result(_CALL_SECONDS)
        except (RuntimeError, TimeoutError) as error:
            if future.done():
                raise
            raise SinkUnavailable(f"the server does not run: {error}") from error

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Have a function called in the loop of the server, from any thread; not if the server has ended."""
        with contextlib.suppress(RuntimeError, AttributeError):  # it has no loop, or a closed one
            loop: Any = self._loop
            loop.call_soon_threadsafe(loop.call_later, seconds, function)

    def stop(self) -> None:
        """Close all connections and end the thread; does nothing if it has ended."""
        if self._thread.ident is not None:
            with contextlib.suppress(SinkUnavailable):
                self.call(self._server.request_exit)
            self._thread.join(_CALL_SECONDS)
        self._socket.close()

    def _run(self) -> None:
        try:
            factory = self._server.config.get_loop_factory()
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(self._serve())
        except BaseException as error:
            self._failure = error
        finally:
            self._loop = None
            self._server.is_up.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        sweep = self._loop.create_task(self.guard.sweep_for_ever())
        try:
            await self._server.serve([self._socket])
        finally:
            sweep.cancel()
            self.guard.abort_all()


class _Server(uvicorn.Server):
    """A server that says when it accepts connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()

    def request_exit(self) -> None:
        self.should_exit = True


def _bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound. Raises SinkRefused."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SinkRefused(f"cannot listen on {host!r}: {error}. Check host.") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise SinkRefused(
            f"cannot listen on {host}:{port}: {error.strerror}. Is another program using the port?"
            " Choose another port; 0 is any free one."
        ) from error
    return bound
