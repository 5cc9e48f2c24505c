"""The sink ``serve``: passes the batches of a stream to the clients of a server."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tapeloom.plugin import Guarantee, Resume, SinkBatch, SinkRun, StreamState

from .app import application
from .hub import Hub
from .server import ServerThread
from .settings import Settings

__all__ = ["RUNNING", "ServeSink"]

#: Seconds that clients have at the end to receive what is queued for them.
_DRAIN_SECONDS = 2.0
#: Number of events that are encoded and queued at once. Meanwhile, about 0.2 ms, the stream's thread may have
#: to wait for Python's lock; without slices it would wait up to 5 ms.
_SLICE = 128
#: The sinks of this process that serve now.
RUNNING: list[ServeSink] = []


class ServeSink:
    """Serves the events of a stream from a thread of its own.

    The stream's event loop does not encode, send or wait: `write` runs in a worker thread and returns when
    the events are in the queues of the clients.
    """

    guarantee: Guarantee = "at_most_once"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server: ServerThread | None = None
        self.hub = Hub()
        #: Returns what the stream says of itself now.
        self.state: Callable[[], StreamState] = SinkRun("", 0).state

    @property
    def url(self) -> str:
        """The address of the stream; empty while it is not served."""
        return f"ws://{self._server.address}{self._settings.path}" if self._server else ""

    def open(self, run: SinkRun) -> Resume:
        """Bind the port and start the server. Raises SinkRefused or SinkUnavailable."""
        self.hub, self.state = Hub(), run.state
        self._server = ServerThread(application(self.hub, self._settings), self._settings)
        self._server.start()
        RUNNING.append(self)
        return Resume()

    def write(self, batch: SinkBatch) -> None:
        """Put a batch into the queues of the clients, in slices."""
        if self._server is not None:
            for first in range(0, len(batch.events), _SLICE):
                self._server.call(self.hub.publish, batch.events[first : first + _SLICE])

    def close(self) -> None:
        """End the clients, when they have got what is queued, and the server."""
        server, self._server = self._server, None
        if server is not None:
            RUNNING[:] = [sink for sink in RUNNING if sink is not self]
            are_gone = threading.Event()
            server.call(self.hub.close, are_gone.set)
            are_gone.wait(_DRAIN_SECONDS)
            server.stop()

    def check(self) -> list[str]:
        """Bind the port, and release it again. Raises SinkRefused."""
        server = ServerThread(application(Hub(), self._settings), self._settings)
        address = server.address
        server.stop()
        token = "a token" if self._settings.token else "no token"
        return [f"can listen on {address}, with {token}"]
