"""Process trees: stop, continue and kill them; run as a program, guard one server process.

The program starts a server as its child, and ends the whole tree of processes when its standard
input gives a byte or ends. A pipe ends however its writer ends, so a server never outlives the test
process, not even after `kill -9`. The signal that Linux can send at a parent's death
(PR_SET_PDEATHSIG) is not used: it is sent when the *thread* that started the server ends, other
systems do not have it, and it does not reach the backends of PostgreSQL.

This module imports the standard library only: the program is started without site-packages.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["continue_tree", "kill_tree", "stop_tree"]

#: The order to kill the server at once. Any other, or none, lets it shut down first.
KILL = b"k"
#: How long a server may take to shut down.
STOP_SECONDS = 5.0
#: How long killed processes may take to end.
KILL_SECONDS = 10.0
#: How often it is looked whether killed processes have ended.
POLL_SECONDS = 0.002


def stop_tree(root: int) -> list[int]:
    """Send SIGSTOP to a process and all its descendants; return their ids, the root first.

    The root is stopped before its children are listed, so that it cannot start others meanwhile.
    """
    stopped: dict[int, None] = {}
    while new := [pid for pid in (root, *_descendants(root)) if pid not in stopped]:
        _send(new, signal.SIGSTOP)
        stopped.update(dict.fromkeys(new))
    return list(stopped)


def continue_tree(root: int) -> None:
    """Send SIGCONT to a process and all its descendants."""
    _send((root, *_descendants(root)), signal.SIGCONT)


def kill_tree(root: int) -> None:
    """Send SIGKILL to a process and all its descendants, and wait until they have ended.

    A process that only waits for its parent to read its exit status has ended: it holds no port and
    no memory. Raises TimeoutError if some have not ended after 10 seconds.
    """
    killed = set(stop_tree(root))
    _send(killed, signal.SIGKILL)
    pause = threading.Event()
    deadline = time.monotonic() + KILL_SECONDS
    while left := killed & {pid for pid, _, state in _processes() if state != "Z"}:
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"processes {sorted(left)} have not ended {KILL_SECONDS:.0f} seconds after SIGKILL"
            )
        pause.wait(POLL_SECONDS)


def _send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue  # it has ended by itself


def _descendants(root: int) -> list[int]:
    children = defaultdict(list)
    for pid, parent, _ in _processes():
        children[parent].append(pid)
    found = [root]
    for pid in found:
        found += children[pid]
    return found[1:]


def _processes() -> Iterator[tuple[int, int, str]]:
    """Yield the id, the parent's id and the state ("Z": ended) of every process."""
    if not Path("/proc/self/stat").exists():
        yield from _listed_by_ps()
        return
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text(errors="replace")
            except OSError:
                continue  # it ended while the list was read
            # The second field is the name in parentheses, and may hold spaces and parentheses.
            state, parent = stat.rpartition(")")[2].split()[:2]
            yield int(folder.name), int(parent), state


def _listed_by_ps() -> Iterator[tuple[int, int, str]]:
    command = ["ps", "-A", "-o", "pid=,ppid=,state="]
    listed = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    for line in listed.stdout.splitlines():
        pid, parent, state = line.split()
        yield int(pid), int(parent), state[0]


def main(
    command: list[str], folder: str, log: str, stop: int, user: str | None, group: int | None
) -> None:
    """Run a command as *user* until it ends or standard input does; print its process id.

    *stop* is the number of the signal that makes the server shut down.

    If standard input ends without a byte, the owner has died, and *folder* is removed as well.
    """
    with Path(log).open("ab") as output:
        server = subprocess.Popen(  # noqa: S603
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
        )
    print(server.pid, flush=True)
    told = threading.Event()

    def follow() -> None:
        server.wait()
        if not told.is_set():
            os._exit(0)

    threading.Thread(target=follow, daemon=True).start()
    order = sys.stdin.buffer.read(1)
    told.set()
    if order != KILL:
        continue_tree(server.pid)
        server.send_signal(stop)
        with contextlib.suppress(subprocess.TimeoutExpired):  # then it is killed
            server.wait(STOP_SECONDS)
    if server.poll() is None:
        kill_tree(server.pid)
    if not order:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
