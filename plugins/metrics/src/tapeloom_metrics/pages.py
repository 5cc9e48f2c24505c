"""What the server answers: the metrics, and whether the stream is alive and ready."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from tapeloom.plugin import StreamState

from .counts import EventCounts
from .health import not_alive, not_ready
from .loop_check import LoopCheck

#: Seconds for which one answer serves several scrapes, so that many clients cost no more than one.
_KEPT_SECONDS = 0.5
_TEXT = "text/plain; charset=utf-8"


class Page(NamedTuple):
    """An answer."""

    code: int
    content_type: str
    body: bytes


class Pages:
    """The pages of one stream. They may be asked for by several threads."""

    def __init__(
        self,
        registry: CollectorRegistry,
        state: Callable[[], StreamState],
        counts: EventCounts,
        loop_check: LoopCheck,
    ) -> None:
        self._registry = registry
        self._state = state
        self._counts = counts
        self._loop_check = loop_check
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, bytes]] = {}

    def get(self, path: str, accept: str) -> Page | None:
        """Return the page at *path* in the form that the header *accept* asks for; None if there is none."""
        if path == "/metrics":
            return self._metrics(accept)
        if path == "/healthz":
            return _verdict(not_alive(self._state(), self._loop_check.silent_seconds()), "alive\n")
        if path == "/readyz":
            return _verdict(not_ready(self._state(), self._counts), "ready\n")
        if path == "/":
            text = "/metrics   for Prometheus\n/healthz   is it alive?\n/readyz    can it be trusted now?\n"
            return Page(200, _TEXT, text.encode())
        return None

    def _metrics(self, accept: str) -> Page:
        encode, content_type = choose_encoder(accept)
        with self._lock:
            made_at, body = self._kept.get(content_type, (-_KEPT_SECONDS, b""))
            if time.monotonic() - made_at >= _KEPT_SECONDS:
                body = encode(self._registry)
                self._kept[content_type] = time.monotonic(), body
        return Page(200, content_type, body)


def _verdict(reasons: list[str], otherwise: str) -> Page:
    if not reasons:
        return Page(200, _TEXT, otherwise.encode())
    return Page(503, _TEXT, "".join(f"{reason}\n" for reason in reasons).encode())
