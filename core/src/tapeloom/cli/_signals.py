"""`StopSignals`: SIGINT and SIGTERM stop the command, and end the process if it does not stop in time."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from contextlib import suppress
from typing import Self

import anyio

#: The exit code of a command that was ended before it had delivered all events.
INTERRUPTED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: Seconds from the first signal to the cancellation of the stream, unless a second signal comes before.
_STOP_SECONDS = 3.5
#: Seconds from the cancellation to the end of the process: together with the above well below 5.
_CANCEL_SECONDS = 0.8
_ENDED = (
    b"tapeloom: ended before all events were delivered: after the signal, the output or a sink did"
    b" not accept them in time.\n"
)


class StopSignals:
    """A context in which a thread of its own receives the signals.

    A signal handler would not run while the main thread waits in a library written in C, nor a task
    while the event loop waits for a full pipe. `received` returns at the first signal, and again when
    the stream is to be cancelled: at the second signal, or some seconds after the first. If the process
    still runs shortly after, it is ended without waiting for anything.
    """

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._thread = threading.Thread(target=self._receive, name="signals", daemon=True)
        self._stopping = self._closed = False

    def __enter__(self) -> Self:
        # Threads that start later inherit the mask, so that only ours receives these signals.
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._stopping:
            return  # the thread stays, and ends a process that does not end itself
        self._closed = True
        signal.pthread_kill(self._thread.ident or 0, signal.SIGTERM)
        self._thread.join()
        self._receiver.close()
        self._sender.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    async def received(self) -> None:
        """Wait until the stream is to be stopped; when called again, until it is to be cancelled."""
        await anyio.wait_readable(self._receiver)
        self._receiver.recv(1)

    def _receive(self) -> None:
        signal.sigwait(_SIGNALS)
        if self._closed:
            return
        self._stopping = True
        self._sender.send(b"1")
        deadline = threading.Timer(_STOP_SECONDS, self._end)
        deadline.daemon = True
        deadline.start()
        signal.sigwait(_SIGNALS)
        if not self._closed:
            self._end()

    def _end(self) -> None:
        self._sender.send(b"2")
        threading.Event().wait(_CANCEL_SECONDS)
        with suppress(OSError):
            if select.select([], [2], [], 0)[1]:  # standard error may be a full pipe
                os.write(2, _ENDED)
        os._exit(INTERRUPTED)
