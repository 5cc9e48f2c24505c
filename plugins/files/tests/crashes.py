"""A process that is killed at each of its steps on disk: ``python crashes.py FOLDER FORMAT COMPRESSION``.

For each step it prints the number and a folder. A child process has written there and was killed before
that step, or in the middle of it, where it is a write; another child has completed the work. SQLite's own
steps are not among them: a transaction counts as a step. The last line has 0: no step was left.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from tapeloom import Gap, Trade
from tapeloom.events import Event
from tapeloom.plugin import SinkBatch, SinkRun
from tapeloom_files import FilesSink, Settings
from tapeloom_files.state import State

EPOCH = 1_700_000_000_000_000_000
COUNT = 12
#: The sizes of batches before and after the kill: batches may be cut anew.
SIZE, OTHER_SIZE = 2, 1
STEPS = ("fsync", "mkdir", "open", "replace", "truncate", "unlink", "write")
COMMITS = ("commit", "forget_files")


def some_events() -> list[Event]:
    """Return trades with texts that CSV must quote, and gaps."""
    found: list[Event] = [
        Trade("binance", "BTC/USDT", EPOCH + n, n, Decimal(n), Decimal("1.5"), "buy", f'"{n}",\n')
        for n in range(COUNT)
    ]
    for n in (3, 8):
        found[n] = Gap("binance", "BTC/USDT", EPOCH, n, EPOCH, EPOCH, "sequence", 1)
    return found


def write(settings: Settings, size: int) -> None:
    """Store what the store does not have, in batches of *size*, as core does after a restart."""
    found, ticks = some_events(), iter(range(10_000))
    sink = FilesSink(settings, lambda: next(ticks) * 0.4)
    last = sink.open(SinkRun("crashed", EPOCH)).last
    while batch := found[last : last + size]:
        sink.write(SinkBatch(EPOCH, last + 1, batch, {"position": str(last + len(batch))}))
        last += len(batch)
    sink.close()


def kill_at(step: int) -> None:
    """Let this process be killed at its step of this number, from 1."""
    count = 0

    def counted(owner: Any, name: str) -> Callable[..., Any]:
        function = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            creates = name != "open" or (len(args) > 1 and args[1] & os.O_CREAT)
            count += bool(creates)
            if creates and count == step:
                if name == "write":
                    function(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for owner, names in ((os, STEPS), (State, COMMITS)):
        for name in names:
            setattr(owner, name, counted(owner, name))


def in_child(run: Callable[[], object]) -> int:
    """Call a function in a process of its own; return its exit status, negative if it was killed."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        run()
    except BaseException as error:
        print(f"failed: {error!r}", flush=True)
        os._exit(1)
    os._exit(0)


def killed_at_each_step(folder: Path, options: dict[str, Any]) -> Iterator[tuple[int, Path]]:
    """Yield each step and the folder after it."""
    step = 0
    while True:
        step += 1
        settings = Settings(path=str(folder / str(step)), rotate_every="1s", **options)

        def run(settings: Settings = settings, step: int = step) -> None:
            kill_at(step)
            write(settings, SIZE)

        status = in_child(run)
        if status not in (0, -signal.SIGKILL):
            raise RuntimeError(f"step {step}: exit status {status}")
        if status and in_child(lambda settings=settings: write(settings, OTHER_SIZE)):
            raise RuntimeError(f"step {step}: it was not completed")
        yield (step if status else 0), folder / str(step)
        if not status:
            return


if __name__ == "__main__":
    choices = {"format": sys.argv[2], "compression": sys.argv[3]}
    for number, path in killed_at_each_step(Path(sys.argv[1]), choices):
        print(number, path, flush=True)
