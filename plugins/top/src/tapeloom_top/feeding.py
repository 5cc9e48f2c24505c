"""`Feeding`: a process of its own that streams and keeps a `Market`, and answers what the screen asks of it.

The screen shares no interpreter lock with the stream, so that drawing cannot delay it.
"""

from __future__ import annotations

import importlib.util
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tapeloom import Stream
from tapeloom.errors import ConfigError, Mistake, TapeloomError

from .picture import Picture, Query
from .streaming import END_SECONDS, Ended, Failed, run

__all__ = ["Feeding", "StreamGone"]

#: Seconds between two looks at whether an answer is still wanted.
_LOOK_SECONDS = 0.25
#: Seconds for a process to end after the stream in it has ended.
_EXIT_SECONDS = 2.0
_HANGS = "the process that streams did not end in time and was killed. Its sinks may lack the last events."


class StreamGone(TapeloomError):
    """The process that streams has ended, and answers nothing any more."""


class Feeding:
    """A stream in a process of its own. Leaving the context stops the stream and ends the process.

    Entering it opens the stream, and raises what opening raises. *opener* is pickled: a function of a
    module, or a `functools.partial` of one.
    """

    def __init__(
        self, opener: Callable[[], Stream], backend: str = "asyncio", *, debug: bool = False
    ) -> None:
        #: What went wrong, in a sentence, and the exit code of the command; known after the end.
        self.problem, self.exit_code = "", 0
        self._backend = backend
        self._is_stopping = self._has_ended = False
        self._asking = threading.Lock()
        context = get_context("spawn")
        self._connection, self._other_end = context.Pipe()
        self._process = context.Process(
            target=run,
            args=(self._other_end, opener),
            kwargs={"backend": backend, "folder": str(Path.cwd()), "debug": debug},
            name="tapeloom stream",
        )

    def __enter__(self) -> Self:
        if importlib.util.find_spec(self._backend) is None:
            problem = f"{self._backend} is not installed. Try: pip install {self._backend}"
            raise ConfigError([Mistake("backend", problem)])
        with _interrupts_ignored():
            self._process.start()
        self._other_end.close()  # else the end of that process would not end the connection
        try:
            message = self._receive()
            if isinstance(message, Failed):
                raise message.error()
        except BaseException:
            self._end_process()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_stopping = True
        deadline = time.monotonic() + END_SECONDS + _EXIT_SECONDS
        try:
            with self._asking, suppress(StreamGone):
                with suppress(OSError):
                    self._connection.send(None)
                while self._connection.poll(max(deadline - time.monotonic(), 0)):
                    self._receive()
                self._set_end(Ended(_HANGS, 1))
        finally:
            self._end_process()

    def read(self, query: Query) -> Picture:
        """Return what is to be drawn; from any thread. Raises StreamGone."""
        with self._asking:
            try:
                self._connection.send(query)
            except OSError:
                self._receive()
            while not self._connection.poll(_LOOK_SECONDS):
                if self._is_stopping:
                    raise StreamGone("the stream is being ended")
            answer: Picture = self._receive()
            return answer

    def _receive(self) -> Any:
        """Return the next message. Raises StreamGone if it is the last one, or if none comes any more."""
        try:
            message = self._connection.recv()
        except (EOFError, OSError):
            if not self._has_ended:
                self._process.join(_EXIT_SECONDS)
                self._set_end(Ended(_reason(self._process.exitcode), 1))
        else:
            if not isinstance(message, Ended):
                return message
            self._set_end(message)
        raise StreamGone(self.problem)

    def _set_end(self, ended: Ended) -> None:
        self._has_ended, self.problem, self.exit_code = True, ended.problem, ended.exit_code

    def _end_process(self) -> None:
        """End the process, which ends by itself when the connection does, unless it hangs."""
        self._connection.close()
        self._process.join(_EXIT_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()


def _reason(exit_code: int | None) -> str:
    """Say why a process has ended that was to go on."""
    how = "closed its connection"
    if exit_code is not None and exit_code < 0:
        how = f"was killed by the signal {signal.Signals(-exit_code).name}"
    elif exit_code is not None:
        how = f"ended with the exit code {exit_code}"
    return f"the process that streams {how}. No events are read any more: start the command again."


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Have a process that is started here ignore Ctrl-C: it is meant for this one, which ends the other."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
