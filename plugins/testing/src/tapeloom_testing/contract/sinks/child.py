"""A process that writes to a sink, and is killed: ``python -m tapeloom_testing.contract.sinks.child``.

It reads a `Task` as JSON from each line of standard input, forks a process that runs it, and prints its id
when it is about to open the store. At the line "wait" it prints the exit status of that process. Settings may
have secrets, so they are no arguments.

The forked process appends to a file the number of the last event of each batch that the sink has
acknowledged: as after a restart with a spool, events up to that number are never offered again.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import anyio
import structlog
from attrs import asdict, evolve, frozen
from tapeloom.harness import write_all

from .events import sink_events
from .store import NAME, build_registry, build_sink

__all__ = ["CUT_SHORT", "Task", "read_acknowledged"]

#: The exit status of a process that ended itself, without closing the sink.
CUT_SHORT = 3
#: The share of kills that fall into the opening of the store, and the seconds within which they do.
_OPENING_SHARE, _OPENING_SECONDS = 0.1, 0.02


@frozen(kw_only=True)
class Task:
    """What a child process writes, and where."""

    use: str  #: the name of the plugin
    module: str  #: the module of the plugin; empty if it is installed
    table: dict[str, Any]  #: the settings of the sink
    types: tuple[str, ...]  #: the event types that it receives; empty: all
    backend: str  #: the event loop
    folder: str  #: where events are set aside, and progress is recorded
    count: int  #: number of events
    sizes: tuple[int, ...]  #: sizes of the batches
    seed: int  #: of the events
    exit_after: int = 0  #: end without closing after so many acknowledged batches; 0: never
    #: Be killed when this share of what is left is written, and at this share of two further batches;
    #: negative: never.
    kill_at: float = -1.0
    kill_phase: float = 0.0

    def to_json(self, **changes: Any) -> str:
        """Return it with *changes*, as a line of JSON."""
        return json.dumps(asdict(evolve(self, **changes)))

    @property
    def progress(self) -> Path:
        """The file with the numbers of acknowledged events."""
        return Path(self.folder) / "acknowledged"


def read_acknowledged(path: Path) -> int:
    """Return the last number in a file to which numbers are appended, whose last line may be incomplete."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return int(lines[-1]) if lines else 0


class _Progress:
    """Records what is acknowledged, and ends the process where its task says so."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._acknowledged = read_acknowledged(task.progress)
        self._file = os.open(task.progress, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._batches = 0
        self._kill_from = task.count + 1.0
        self._start = time.monotonic()
        if 0 <= task.kill_at < _OPENING_SHARE:
            self._kill_in(_OPENING_SECONDS)
        elif task.kill_at >= 0:
            left = task.count - self._acknowledged
            self._kill_from = self._acknowledged + task.kill_at * left

    def on_acknowledged(self, number: int) -> None:
        """Take note that the events up to *number* are acknowledged."""
        os.write(self._file, f"{number}\n".encode())
        self._batches += 1
        if self._batches == self._task.exit_after:
            os._exit(CUT_SHORT)
        if number >= self._kill_from:
            self._kill_from = self._task.count + 1.0
            self._kill_in(2 * (time.monotonic() - self._start) / self._batches)

    def _kill_in(self, seconds: float) -> None:
        """Let the kernel end the process within *seconds*: as with `kill -9`, no code of it runs then."""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, max(seconds * self._task.kill_phase, 1e-6))


def _run(task: Task) -> None:
    events = sink_events(task.count, seed=task.seed, types=task.types)
    sink = build_sink(task.use, task.table, build_registry(task.use, task.module), task.types)

    async def write() -> None:
        progress = _Progress(task)
        await write_all(
            sink,
            events,
            epoch=1,
            folder=Path(task.folder),
            name=NAME,
            sizes=task.sizes,
            acknowledged=read_acknowledged(task.progress),
            on_acknowledged=progress.on_acknowledged,
            accepts_rejects=not task.types or "reject" in task.types,
        )

    print(os.getpid(), flush=True)
    anyio.run(write, backend=task.backend)


def _fork(line: str) -> int:
    """Run a task in a process of its own; return its id."""
    if pid := os.fork():
        return pid
    try:  # the plugin is imported here: a library that starts threads does not survive a fork
        fields = json.loads(line)
        _run(Task(**{**fields, "types": tuple(fields["types"]), "sizes": tuple(fields["sizes"])}))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def main() -> None:
    """Serve the lines of standard input."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    pid = 0
    for line in sys.stdin:
        if line.strip() != "wait":
            pid = _fork(line)
        else:
            _, status = os.waitpid(pid, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
