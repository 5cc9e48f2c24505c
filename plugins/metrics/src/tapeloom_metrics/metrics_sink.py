"""The sink: counts events on the event loop, and serves metrics and health checks from a thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog
from anyio import to_thread
from anyio.lowlevel import current_token
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from tapeloom import Event
from tapeloom.errors import SinkRefused
from tapeloom.plugin import Guarantee, Resume, SinkRun

from .collector import StreamCollector
from .counts import EventCounts
from .loop_check import LoopCheck
from .pages import Pages
from .server import MetricsServer
from .settings import Settings

if TYPE_CHECKING:
    from .otlp import Sender

log = structlog.get_logger()


class MetricsSink:
    """A ``[[sink]]`` with ``use = "metrics"``."""

    #: Counts are kept in memory only.
    guarantee: Guarantee = "at_most_once"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        #: What the server exports; a program may export it by other means as well.
        self.registry = CollectorRegistry(auto_describe=False)
        self._counts: EventCounts | None = None
        self._server: MetricsServer | None = None
        self._sender: Sender | None = None

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port that it listens at."""
        assert self._server is not None, "it listens from `open` to `close`"
        return self._server.address

    async def open(self, run: SinkRun) -> Resume:
        """Listen, and begin to send. Raises SinkRefused if the address cannot be used."""
        settings = self._settings
        sender = _sender(self.registry, settings)
        if self._counts is None:
            self._counts = EventCounts(run.state, symbols=settings.symbols)
            collector = StreamCollector(
                run.state, self._counts, settings.sessions, symbols=settings.symbols
            )
            self.registry.register(collector)
            for of_process in (ProcessCollector, PlatformCollector, GCCollector):
                of_process(registry=self.registry)
        pages = Pages(self.registry, run.state, self._counts, LoopCheck(current_token()))
        token = settings.token.reveal() if settings.token is not None else None
        self._server = MetricsServer(settings.host, settings.port, token, pages)
        self._server.start()
        if sender is not None:
            self._sender = sender
            sender.start()
        host, port = self._server.address
        log.info("metrics_listening", sink=run.sink, host=host, port=port)
        return Resume()

    def observe(self, events: list[Event]) -> None:
        """Count a batch."""
        if self._counts is not None:
            self._counts.add(events)

    async def close(self) -> None:
        """Stop listening, and send a last time."""
        sender, self._sender = self._sender, None
        if sender is not None:
            await to_thread.run_sync(sender.stop)
        if self._server is not None:
            stopped, self._server = self._server, None
            await to_thread.run_sync(stopped.stop)

    def check(self) -> Sequence[str]:
        """Return whether the address is free. Raises SinkRefused if it is not."""
        settings = self._settings
        server = MetricsServer(settings.host, settings.port, None, None)
        server.stop()
        return [f"{settings.host}:{settings.port} is free"]


def _sender(registry: CollectorRegistry, settings: Settings) -> Sender | None:
    """Return what sends the metrics; None if nothing is to be sent. Raises SinkRefused without its library."""
    if not settings.otlp_endpoint:
        return None
    try:
        from .otlp import Sender
    except ImportError as error:
        raise SinkRefused(
            "otlp_endpoint needs OpenTelemetry, which is not installed. Install tapeloom-metrics[otlp], or"
            " leave out `otlp_endpoint`."
        ) from error
    return Sender(registry, settings.otlp_endpoint, settings.otlp_interval / 1e9)
