"""The sink ``web``: keeps what the page shows, and serves the page and the stream."""

from __future__ import annotations

from tapeloom import Event
from tapeloom.errors import SinkRefused
from tapeloom.plugin import Guarantee, Resume, SinkRun
from tapeloom_screens import Market
from tapeloom_serve import Hub, Publisher, ServerThread

from .settings import Settings
from .shown import Shown
from .site import SITE
from .stored import stored_candles

__all__ = ["RUNNING", "WebSink"]

#: The sinks of this process that serve now.
RUNNING: list[WebSink] = []


class WebSink:
    """Serves a page from a thread of its own. `observe` keeps what somebody looks at, and no more."""

    guarantee: Guarantee = "at_most_once"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server: ServerThread | None = None
        self._market, self._hub = Market(), Hub()
        self._publisher: Publisher | None = None

    @property
    def url(self) -> str:
        """The address of the page; empty while it is not served."""
        return f"http://{self._server.address}/" if self._server else ""

    def open(self, run: SinkRun) -> Resume:
        """Bind the port and start the server. Raises SinkRefused or SinkUnavailable."""
        self._hub = Hub()
        shown = Shown(self._market, run.state, stored_candles(self._settings.store))
        app = SITE.application(shown, self._hub, self._settings)
        if app is None:
            raise SinkRefused(
                "another sink of this process shows a page already. Keep one [[sink]] with use = 'web'."
            )
        try:
            self._server = ServerThread(app, self._settings, lifespan=True)
            self._server.start()
            self._publisher = Publisher(self._hub, self._server)
        except BaseException:
            self.close()
            raise
        RUNNING.append(self)
        return Resume()

    def observe(self, events: list[Event]) -> None:
        """Show a batch on the page, and send it to the clients of the stream."""
        self._market.add(events)
        if self._publisher is not None:
            self._publisher.publish(events)

    def close(self) -> None:
        """End the clients and the server."""
        server, self._server = self._server, None
        publisher, self._publisher = self._publisher, None
        RUNNING[:] = [sink for sink in RUNNING if sink is not self]
        if server is not None:
            if publisher is not None:
                server.call(publisher.flush)
            server.call(self._hub.close)
            server.stop()
        SITE.release()
