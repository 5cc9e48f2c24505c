"""What runs in the process of the stream: it gives the events to a `Market`, and answers the screen's queries.

The connection to the screen carries, in this order: here `Opened` or `Failed`; then a `Query` from there and a
`Picture` from here, again and again; then None from there, or the end of the connection; then `Ended`
from here. The end of the connection says that the process of the screen is gone, and then this one ends too.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import anyio
from attrs import frozen
from tapeloom import Event, Status, Stream
from tapeloom.cli import configure_logging
from tapeloom.errors import ConfigError, PluginError, SymbolError, TapeloomError, unwrap_single
from tapeloom_screens import Market

from .picture import Picture, Query, picture

__all__ = ["END_SECONDS", "Ended", "Failed", "Opened", "run"]

#: Seconds from the wish to end to the end: the stream has 5 to deliver what was read to its sinks.
END_SECONDS = 8.0
#: The exit code of a process that was ended before that.
_INTERRUPTED = 130
#: Seconds between two looks at whether the stream is to end.
_LOOK_SECONDS = 0.05
#: Seconds after which the stream is asked again what it says of itself.
_STATE_SECONDS = 1.0
#: Seconds after which a thread that computes lets another one run. Python's own 5 ms would delay each
#: read of a socket by as much while a query is answered.
_SWITCH_SECONDS = 0.0005
#: Number of new objects after which the garbage collector runs, as of the other commands that stream.
_GC_THRESHOLD = 50_000
#: The states of a `Status` that show that a venue was reached.
_CONNECTED = frozenset({"connected", "logged_in", "subscribed", "live"})


@frozen
class Opened:
    """The stream is open."""


@frozen
class Failed:
    """The stream could not be opened: the class of the exception, its arguments and attributes.

    An exception of tapeloom is made of other arguments than its message, so pickle cannot carry it.
    """

    kind: type[BaseException]
    arguments: tuple[Any, ...]
    attributes: dict[str, Any]

    @classmethod
    def of(cls, error: BaseException) -> Failed:
        """Return what carries *error*; of one that is a defect, its trace as text."""
        if not isinstance(error, TapeloomError):
            return cls(RuntimeError, (_trace(error),), {})
        found = cls(type(error), error.args, dict(vars(error)))
        try:
            pickle.dumps(found)
        except Exception:  # an attribute of a plugin's own class cannot be carried
            kinds = (ConfigError, PluginError, SymbolError, TapeloomError)
            kind = next(kind for kind in kinds if isinstance(error, kind))
            return cls(kind, (str(error),), {})
        return found

    def error(self) -> BaseException:
        """Return the exception."""
        error = self.kind.__new__(self.kind, *self.arguments)
        vars(error).update(self.attributes)
        return error


@frozen
class Ended:
    """The stream is closed: what went wrong, in a sentence or empty, and the exit code of the command."""

    problem: str
    exit_code: int


def run(
    connection: Connection, opener: Callable[[], Stream], *, backend: str, folder: str, debug: bool
) -> None:
    """Run a stream in this process until the other end of *connection* wants it to end or is gone.

    Relative paths are those of *folder*.
    """
    # They are for the process of the screen, which then ends this one.
    for name in ("SIGINT", "SIGHUP"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
    os.chdir(folder)
    configure_logging(debug=debug)
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.set_threshold(_GC_THRESHOLD)
    streaming = Streaming(connection, opener)
    signal.signal(signal.SIGTERM, lambda *_: streaming.stopping.set())
    threading.Thread(target=streaming.answer, name="answers", daemon=True).start()
    has_uvloop = backend == "asyncio" and importlib.util.find_spec("uvloop") is not None
    options = {"use_uvloop": True} if has_uvloop else {}
    error: BaseException | None = None
    try:
        anyio.run(streaming.stream, backend=backend, backend_options=options)
    except BaseException as failed:
        error = unwrap_single(failed)
    with suppress(OSError):  # nobody is there any more
        streaming.send(streaming.end(error))


class Streaming:
    """A stream whose events go to a market, and the answers to queries about it."""

    def __init__(self, connection: Connection, opener: Callable[[], Stream]) -> None:
        self.stopping = threading.Event()
        self._connection = connection
        self._sending = threading.Lock()
        self._opener = opener
        self._market = Market()
        self._stream: Stream | None = None
        self._refreshed = float("-inf")
        self._has_ended = False
        self._error: BaseException | None = None
        self._is_connected = False  # a venue was reached, or an event came
        self._last_failure = ""  # why the last attempt to connect failed

    # ------------------------------------------------------------------------------------- the stream

    async def stream(self) -> None:
        """Open the stream, and give its events to the market until it is to end."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._wait_for_end, tasks.cancel_scope)
            async with self._opener() as stream:
                self._stream = stream
                self._market.refresh(stream.state())
                self.send(Opened())
                _silence()
                await self._consume(stream)
                await self._until_end_is_wanted()

    async def _wait_for_end(self, opening: anyio.CancelScope) -> None:
        await self._until_end_is_wanted()
        if self._stream is None:
            opening.cancel()
        else:
            self._stream.stop()  # what was read still arrives

    async def _until_end_is_wanted(self) -> None:
        while not self.stopping.is_set():  # noqa: ASYNC110 - set by other threads and a signal handler
            await anyio.sleep(_LOOK_SECONDS)

    async def _consume(self, stream: Stream) -> None:
        stream.observe(self._add, "top")
        try:
            await stream.run()
        except TapeloomError as error:
            self._error = error
        finally:
            self._has_ended = True

    def _add(self, events: list[Event]) -> None:
        try:
            if not self._is_connected:
                self._look_for_connection(events)
            self._market.add(events)
        except Exception as error:  # the stream calls this no more
            self._error = error
            raise

    def _look_for_connection(self, events: list[Event]) -> None:
        for event in events:
            if not isinstance(event, Status) or event.state in _CONNECTED:
                self._is_connected = True
            elif event.state == "reconnecting":
                self._last_failure = event.detail

    # ------------------------------------------------------------------------------------- the screen

    def send(self, message: object) -> None:
        """Send a message to the screen, from any thread. Raises OSError if it is gone."""
        with self._sending:
            self._connection.send(message)

    def answer(self) -> None:
        """Answer queries until the stream is to end; then have this process end within `END_SECONDS`."""
        try:
            while (query := self._connection.recv()) is not None:
                self.send(self._picture(query))
        except (EOFError, OSError):
            pass  # the process of the screen is gone
        except Exception as error:
            self._error = error
        deadline = threading.Timer(END_SECONDS, os._exit, (_INTERRUPTED,))
        deadline.daemon = True
        deadline.start()
        self.stopping.set()

    def _picture(self, query: Query) -> Picture:
        health = None
        if self._stream is not None and time.monotonic() - self._refreshed >= _STATE_SECONDS:
            self._refreshed = time.monotonic()
            self._market.refresh(self._stream.state())
            health = self._market.health()
        error = "" if self._error is None else str(self._error)
        return picture(self._market, query, health, has_ended=self._has_ended, error=error)

    def end(self, error: BaseException | None) -> Ended | Failed:
        """Return the last message, after the stream has been closed, with an *error* or without one."""
        is_open = self._stream is not None
        if error is not None and not is_open:
            return Failed.of(error)
        error = error or self._error
        if error is not None:
            is_known = isinstance(error, TapeloomError)
            is_mistake = isinstance(error, ConfigError | PluginError | SymbolError)
            return Ended(str(error) if is_known else _trace(error), 2 if is_mistake else 1)
        if not is_open:
            return Ended("the stream was ended by a signal while it was opened", _INTERRUPTED)
        if not self._is_connected:
            return Ended(f"no connection was established. {self._last_failure}".rstrip(), 1)
        return Ended("", 0)


def _silence() -> None:
    """Send what is printed from now on nowhere: it would break the screen, which shows the log itself."""
    for file in (sys.stdout, sys.stderr):
        file.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)


def _trace(error: BaseException) -> str:
    return (
        "the stream has ended with a defect:\n"
        + "".join(traceback.format_exception(error)).rstrip()
    )
