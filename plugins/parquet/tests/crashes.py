"""A process that is killed at each of its steps on disk: ``python crashes.py FOLDER write|compact``.

For each step it prints the number and the folder of a dataset. A child process has done the work and was
killed before that step, or, with "tear", in the middle of it, where it is a write. With "compact" a copy of
the dataset as the kill has left it is in ``killed``. Another child has then begun again and completed it.
The last line has 0: no step was left to be killed at.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from tapeloom import Gap, Trade
from tapeloom.events import Event
from tapeloom.plugin import SinkBatch, SinkRun
from tapeloom_parquet import ParquetSink, Settings, compact

#: Every function by which the package changes the disk; pyarrow writes to files that no reader sees yet.
STEPS = (
    "fsync", "ftruncate", "link", "mkdir", "open", "rename", "replace", "rmdir", "unlink", "writev",
)  # fmt: skip
EPOCH = 1_700_000_000_000_000_000
MIDNIGHT = 1_700_006_400_000_000_000
COUNT = 12
#: The sizes of batches before and after the kill: batches may be cut anew.
SIZE, OTHER_SIZE = 2, 1


def some_events() -> list[Event]:
    """Return trades of two venues around midnight, and a gap."""
    found: list[Event] = [
        Trade(
            "binance" if n % 3 else "bybit", "BTC/USDT", MIDNIGHT + (n - 6) * 1_000, n, Decimal(n),
            Decimal("1.5"), "buy", n,
        )
        for n in range(COUNT)
    ]  # fmt: skip
    found[5] = Gap("binance", "BTC/USDT", MIDNIGHT, 5, MIDNIGHT, MIDNIGHT, "sequence", 1)
    return found


def steady_clock() -> Callable[[], float]:
    """Return a clock that advances by 0.4 s at each call: a journal of 1 s has a few batches."""
    ticks = iter(range(10_000))
    return lambda: next(ticks) * 0.4


def write(folder: Path, size: int) -> None:
    """Store what the store does not have, in batches of *size*, as core does after a restart."""
    found = some_events()
    sink = ParquetSink(Settings(path=str(folder), max_age="1s"), steady_clock())
    last = sink.open(SinkRun("crashed", EPOCH)).last
    while batch := found[last : last + size]:
        sink.write(SinkBatch(EPOCH, last + 1, batch, {"position": str(last + len(batch))}))
        last += len(batch)
    sink.close()


def prepare(folder: Path) -> None:
    """Make a dataset of the trades of one venue, with several small files in both partitions."""
    for n, event in enumerate(some_events(), 1):
        if isinstance(event, Trade) and event.venue == "binance":
            sink = ParquetSink(Settings(path=str(folder)))
            sink.open(SinkRun("crashed", EPOCH))
            sink.write(SinkBatch(EPOCH, n, [event]))
            sink.close()


def kill_at(step: int) -> None:
    """Let this process be killed at its step of this number, from 1."""
    count = 0

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            creates = name != "open" or (len(args) > 1 and args[1] & os.O_CREAT)
            count += bool(creates)
            if creates and count == step:
                if name == "writev":
                    content = b"".join(args[1])
                    function(args[0], [content[: len(content) // 2]])
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for name in STEPS:
        setattr(os, name, counted(name, getattr(os, name)))


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


def killed_at_each_step(folder: Path, work: str) -> Iterator[tuple[int, Path]]:
    """Yield each step and the dataset after it."""
    step = 0
    while True:
        step += 1
        data = folder / str(step)
        if work == "compact":
            prepare(data)

        def run(data: Path = data, step: int = step) -> None:
            kill_at(step)
            compact(data) if work == "compact" else write(data, SIZE)

        status = in_child(run)
        if work == "compact":
            shutil.copytree(data, data / "killed") if status else None
        if status not in (0, -signal.SIGKILL):
            raise RuntimeError(f"step {step}: exit status {status}")
        if status and in_child(
            lambda data=data: compact(data) if work == "compact" else write(data, OTHER_SIZE)
        ):
            raise RuntimeError(f"step {step}: it was not completed")
        yield (step if status else 0), data
        if not status:
            return


if __name__ == "__main__":
    for number, dataset in killed_at_each_step(Path(sys.argv[1]), sys.argv[2]):
        print(number, dataset, flush=True)
