"""The queue of a sink that observes: it calls the sink with each batch while the batch is delivered.

An event that waits in a queue costs several times what a look at it costs: new events need other memory, and
the garbage collector visits those that wait.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from tapeloom._stream.queues import Queue
from tapeloom.events import Event
from tapeloom.plugin import Cursor

from .writer import explain

log = structlog.get_logger()


class Observed(Queue):
    """Calls `observe` with the events that a sink receives. Nothing waits in it, and nothing is dropped."""

    observe: Callable[[list[Event]], None]

    def put_nowait(self, events: list[Event], cursor: Cursor | None = None) -> bool:
        """Call the sink with what it receives; return True. After an exception it is not called again."""
        events = self.select(events)
        if not events or self._closed:
            return True
        self.received += len(events)
        if self._delays is not None:
            self._delays.add(events)
        try:
            self.observe(events)
        except Exception as error:
            self._counters["sink_errors"] += 1
            log.error("sink_disabled", sink=self.name, reason=explain(error), events_lost=0)
            self.close()
        return True
