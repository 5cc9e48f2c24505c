"""Processes that write to a sink, are killed, and are started again until all is written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from threading import Timer

from tapeloom.errors import printable

from tapeloom_testing.contract.declared import ContractViolation, NotApplicable

from .child import CUT_SHORT, Task

__all__ = ["RUNS", "Processes", "running_processes"]

#: Number of runs with `kill -9`; more of them with the environment variable TAPELOOM_DURABILITY_RUNS.
RUNS = int(os.environ.get("TAPELOOM_DURABILITY_RUNS", "10"))
#: Seconds until a process that does not finish is killed, and fails the test.
_PATIENCE = 60.0
#: The most times that one run is killed.
_MAX_KILLS = 2


@contextmanager
def running_processes(errors: Path) -> Iterator[Processes]:
    """Yield an object that starts processes; their standard error goes to the file *errors*.

    Raises NotApplicable on systems without `fork`.
    """
    if not hasattr(os, "fork"):
        raise NotApplicable("this system has no `fork`", here=True)
    with (
        errors.open("ab") as file,
        subprocess.Popen(  # our own module
            [sys.executable, "-m", "tapeloom_testing.contract.sinks.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        ) as server,
    ):
        yield Processes(server, errors)
        assert server.stdin is not None
        server.stdin.close()


class Processes:
    """Starts processes through *server*, which forks: so each of them starts within milliseconds."""

    def __init__(self, server: subprocess.Popen[str], errors: Path) -> None:
        self._server = server
        self._errors = errors

    def kill_at_random(self, task: Task, seed: int) -> int:
        """Run a task, killed at up to two random moments, until all is written; return how often it was."""
        rng = Random(seed)  # repeatable, not secret
        for kills in range(rng.randint(1, _MAX_KILLS)):
            pid = self._start(task, kill_at=rng.random(), kill_phase=rng.random())
            if self._wait(pid, 0, -signal.SIGALRM) == 0:
                return kills
        self._wait(self._start(task), 0)
        return kills + 1

    def write_and_exit(self, task: Task, batches: int) -> None:
        """Run a task in processes that each end, without closing the sink, after some batches."""
        while self._wait(self._start(task, exit_after=batches), 0, CUT_SHORT) != 0:
            pass

    def _start(self, task: Task, **changes: float) -> int:
        """Start a process for a task with changes; return its id when it is about to open the store."""
        return int(self._ask(task.to_json(**changes)))

    def _wait(self, pid: int, *allowed: int) -> int:
        """Return the exit status of a process; raise ContractViolation if it is not an allowed one."""
        timer = Timer(_PATIENCE, os.kill, (pid, signal.SIGKILL))
        timer.start()
        status = int(self._ask("wait"))
        timer.cancel()
        if status not in allowed:
            raise self._failed(f"ended with {status}")
        return status

    def _ask(self, line: str) -> str:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(line + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        if not answer:
            raise self._failed("could not be started")
        return answer

    def _failed(self, problem: str) -> ContractViolation:
        lines = self._errors.read_text("utf-8", "replace").strip().splitlines() or ["no message"]
        text = f"the process that writes to the sink {problem}: {printable(lines[-1])}"
        return ContractViolation(text)
