"""A real server in processes of its own, for the time of a test."""

from __future__ import annotations

import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from . import guard

__all__ = ["HOST", "Service", "ServiceFailed", "free_port"]

#: Every server listens on this address only.
HOST = "127.0.0.1"
#: Ports are taken below those that systems give to outgoing connections (Linux from 32768, macOS from
#: 49152). A client that redials the port of a killed server could otherwise be given that very port
#: for its own end, and then talk to itself, or keep the server from starting again.
PORTS = range(10_000, 32_768)
#: How long a server may take to answer, and to end.
START_SECONDS, END_SECONDS = 30.0, 30.0
#: The pause between two questions whether a server answers, and the limit for an answer.
POLL_SECONDS, ANSWER_SECONDS = 0.01, 1.0
#: How many characters at the end of a server's log an error shows.
LOG_CHARACTERS = 2_000


class ServiceFailed(Exception):
    """A server ended or did not answer in time; the message has the end of its log."""


def free_port() -> int:
    """Return a TCP port on which nothing listens on the loopback address."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            # As servers do: a port whose last connections are not forgotten yet is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise ServiceFailed(
        f"expected a free port from {PORTS.start} to {PORTS.stop - 1}; 100 are taken"
    )


class Service(ABC):
    """Base of the servers: a context manager that starts a server, and ends it with the test.

    The server's files lie in a temporary folder, which is removed at the end. It is also killed, and
    the folder removed, if the test process dies. Needs Linux or macOS.
    """

    #: The name of the server in errors.
    name: ClassVar[str]
    #: The signal that makes the server shut down in order.
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    host = HOST

    def __init__(self) -> None:
        self.port = 0  #: 0 until the context is entered
        self._folder: Path | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._pid = 0

    @property
    def folder(self) -> Path:
        """The temporary folder with the server's files. Raises ServiceFailed outside the context."""
        if self._folder is None:
            raise ServiceFailed(f"{self.name} has no folder yet; enter it with `with` first")
        return self._folder

    @property
    def pid(self) -> int:
        """The id of the server's first process. Raises ServiceFailed if the server is not running."""
        if self._guard is None or self._guard.poll() is not None:
            raise ServiceFailed(f"{self.name} is not running; start() starts it{self._log_end()}")
        return self._pid

    @property
    def is_running(self) -> bool:
        """Whether the server's first process is there, paused or not."""
        return self._guard is not None and self._guard.poll() is None

    def __enter__(self) -> Self:
        self.prepare()
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    def prepare(self) -> None:
        """Make the temporary folder, choose the port, and write what the server needs before it starts."""
        if sys.platform == "win32":
            raise ServiceFailed(f"{self.name} for tests needs Linux or macOS, and this is Windows")
        self._folder = Path(tempfile.mkdtemp(prefix=f"tapeloom-{self.name}-"))
        self.port = free_port()
        try:
            self._set_up()
        except BaseException:
            self._remove_folder()
            raise

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises ServiceFailed if it ends, or does not answer within 30 seconds.
        """
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start the server without waiting for an answer. Raises ServiceFailed if it is running."""
        if self.is_running:
            raise ServiceFailed(f"{self.name} is running already, with the process id {self._pid}")
        self._kill()  # releases the guard of a server that ended by itself
        user, group = self._account()
        task = {
            "command": self._command(),
            "folder": str(self.folder),
            "log": str(self._log),
            "stop": self.stop_signal,
            "user": user,
            "group": group,
        }
        # -I -S: without site-packages the guard starts in about 15 ms. The session of its own keeps
        # it alive when a terminal or a test runner signals the whole group of the test process.
        program = [sys.executable, "-I", "-S", guard.__file__, json.dumps(task)]
        self._guard = subprocess.Popen(  # noqa: S603
            program,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._guard.stdin is not None
        assert self._guard.stdout is not None
        with self._guard.stdout as pid:
            self._pid = int(pid.readline() or 0)
        if not self._pid:
            self._guard.wait(END_SECONDS)
            self._guard.stdin.close()
            self._guard = None
            raise ServiceFailed(f"{self.name} could not be started; its guard says why above")

    def wait(self) -> None:
        """Wait until the server answers. Raises ServiceFailed as `start` does."""
        assert self._guard is not None
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if time.monotonic() > deadline:
                self.kill()
                raise ServiceFailed(
                    f"{self.name} did not answer on {self.host}:{self.port} within"
                    f" {START_SECONDS:.0f} seconds, and was killed{self._log_end()}"
                )
            try:
                self._guard.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                continue
            self._kill()
            raise ServiceFailed(f"{self.name} ended before it answered{self._log_end()}")

    def kill(self) -> None:
        """Send SIGKILL to every process of the server, and wait until they have ended.

        Port and files stay for `start`. Raises ServiceFailed if the server is not running.
        """
        _ = self.pid
        self._kill()

    def pause(self) -> None:
        """Send SIGSTOP to every process of the server: connections stay open, nothing is answered."""
        guard.stop_tree(self.pid)

    def resume(self) -> None:
        """Send SIGCONT to every process of the server, after `pause`."""
        guard.continue_tree(self.pid)

    def restart(self) -> None:
        """Kill the server if it is running, and start it on the same port with the same files."""
        self._kill()
        self.start()

    def stop(self) -> None:
        """Let the server shut down in order; kill it if that takes more than 5 seconds."""
        self._end(b"s")

    def remove(self) -> None:
        """Stop the server and remove its folder."""
        if self._folder is None:
            return
        try:
            self.stop()
            self._tear_down()
        finally:
            self._kill()
            self._remove_folder()

    @abstractmethod
    def _command(self) -> list[str]:
        """Return the command that runs the server in the foreground."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Return whether the server answers, within about a second."""

    def _set_up(self) -> None:  # noqa: B027  # not every server needs it
        """Write what the server needs in its folder before its first start."""

    def _tear_down(self) -> None:  # noqa: B027  # not every server needs it
        """Remove what the server has left outside its folder."""

    def _account(self) -> tuple[str | None, int | None]:
        """Return the user and the group that the server runs as; None for those of the test."""
        return None, None

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _kill(self) -> None:
        self._end(guard.KILL)

    def _end(self, order: bytes) -> None:
        """Let the guard end the server, in the way that a byte says, and wait for it.

        Raises ServiceFailed if the guard does not end in time, or fails.
        """
        if self._guard is None:
            return
        running, self._guard = self._guard, None
        assert running.stdin is not None
        try:
            # The byte, not only the end: a process forked from the test may hold the pipe as well.
            with running.stdin as orders:
                orders.write(order)
        except (BrokenPipeError, ValueError):
            pass  # the server has ended, and its guard with it
        try:
            status = running.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            running.kill()
            status = running.wait()
        if status:
            raise ServiceFailed(
                f"{self.name} could not be ended (status {status} of its guard, whose message is"
                f" above); see whether processes of {self._pid} are left, and kill them by id"
            )

    def _log_end(self) -> str:
        try:
            text = self._log.read_text(errors="replace")
        except (OSError, ServiceFailed):
            return ""
        return f"; the end of its log:\n{text[-LOG_CHARACTERS:]}"
