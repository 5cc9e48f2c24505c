"""`Feeding`: runs a stream in a thread of its own, and gives its events to a `Market`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal
from tapeloom import Consumer, Event, Status, Stream
from tapeloom.errors import ConfigError, Mistake, PluginError, SymbolError, TapeloomError
from tapeloom_screens import Market

__all__ = ["Feeding"]

#: Events that may wait for the market: more than a second of a fast stream, about 20 MB.
_QUEUE_SIZE = 65_536
#: Seconds between two looks into the queue. To wait for each batch would cost the stream's thread a turn of
#: its event loop for each; a screen needs no more than this.
_LOOK_SECONDS = 0.05
#: The states of a `Status` that show that a venue was reached.
_CONNECTED = frozenset({"connected", "logged_in", "subscribed", "live"})


class Feeding:
    """A stream in a thread, whose events go to a market. Leaving the context stops the stream.

    Entering it opens the stream, and raises what opening raises. If the market is slow, events are
    dropped, and a `Gap` says so; nothing waits for it.
    """

    def __init__(
        self, opener: Callable[[], Stream], market: Market, backend: str = "asyncio"
    ) -> None:
        self.market = market
        self.has_ended = False  #: No more events come.
        self.error: Exception | None = None  #: The error that ended the stream.
        self.is_connected = False  #: A venue was reached, or an event came.
        self.last_failure = ""  #: Why the last attempt to connect failed.
        self._opener = opener
        self._backend = backend
        self._resources = ExitStack()
        self._stream: Stream | None = None
        self._portal: BlockingPortal | None = None

    def __enter__(self) -> Self:
        if importlib.util.find_spec(self._backend) is None:
            problem = f"{self._backend} is not installed. Try: pip install {self._backend}"
            raise ConfigError([Mistake("backend", problem)])
        has_uvloop = self._backend == "asyncio" and importlib.util.find_spec("uvloop") is not None
        options = {"use_uvloop": True} if has_uvloop else {}
        with ExitStack() as resources:
            portal = resources.enter_context(
                start_blocking_portal(self._backend, options, name="tapeloom")
            )
            stream = portal.call(self._opener)
            resources.enter_context(portal.wrap_async_context_manager(stream))
            future = portal.start_task_soon(self._consume, stream)
            resources.callback(future.result)
            resources.callback(portal.call, stream.stop)
            self._stream, self._portal = stream, portal
            self._resources = resources.pop_all()
        self.refresh()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._resources.__exit__(kind, error, trace)

    def stop(self) -> None:
        """Stop reading; what was read still arrives."""
        if self._stream is not None and self._portal is not None and not self.has_ended:
            self._portal.start_task_soon(_stop, self._stream)

    def refresh(self) -> None:
        """Give the market what the stream says of itself now; from any thread."""
        if self._stream is not None:
            self.market.refresh(self._stream.state())

    async def _consume(self, stream: Stream) -> None:
        consumer: Consumer[Event] = stream.consume(
            policy="drop_oldest", size=_QUEUE_SIZE, name="top"
        )
        queue = consumer.queue
        try:
            while not queue.closed:
                while events := queue.get_nowait():
                    self._add(events)
                await anyio.sleep(_LOOK_SECONDS)
            while events := await consumer.batch():
                self._add(events)
        except TapeloomError as error:
            self.error = error
        finally:
            self.has_ended = True

    def _add(self, events: list[Event]) -> None:
        if not self.is_connected:
            self._look_for_connection(events)
        self.market.add(events)

    def _look_for_connection(self, events: list[Event]) -> None:
        for event in events:
            if not isinstance(event, Status) or event.state in _CONNECTED:
                self.is_connected = True
            elif event.state == "reconnecting":
                self.last_failure = event.detail

    @property
    def problem(self) -> str:
        """What went wrong, in a sentence; empty if nothing did."""
        if self.error is not None:
            return str(self.error)
        if not self.is_connected:
            return f"no connection was established. {self.last_failure}".rstrip()
        return ""

    @property
    def exit_code(self) -> int:
        """The exit code of the command: 0, 1 or 2, as of ``tapeloom run``."""
        if isinstance(self.error, ConfigError | PluginError | SymbolError):
            return 2
        return 1 if self.problem else 0


async def _stop(stream: Stream) -> None:
    stream.stop()
