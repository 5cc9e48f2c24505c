"""What a process holds that must be given back: tasks, files and sockets, threads, memory."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Self

import anyio
from attrs import frozen


@frozen
class Held:
    """What this process holds of what must be given back."""

    tasks: Counter[str]
    files: Counter[str]
    threads: Counter[str]

    @classmethod
    def now(cls) -> Self:
        files: Counter[str] = Counter()
        for entry in Path("/proc/self/fd").iterdir():
            try:
                files[str(entry.readlink())] += 1
            except FileNotFoundError:  # that of the list itself
                continue
        threads = Counter(one.name for one in threading.enumerate())
        return cls(Counter(tasks()), files, threads)

    def beside(self, before: Held, *kinds: str) -> list[str]:
        """Say what of these kinds is held that was not held *before*."""
        return [
            f"{what} {name}"
            for what in kinds
            for name in (getattr(self, what) - getattr(before, what)).elements()
        ]


def tasks() -> list[str]:
    """Return what the event loop is at, whichever it is."""
    try:
        return [str(task.get_coro()) for task in asyncio.all_tasks()]
    except RuntimeError:
        pass
    import trio

    try:
        return [f"{trio.lowlevel.current_statistics().tasks_living} of trio"]
    except RuntimeError:
        return []


async def left(before: Held) -> list[str]:
    """Return what is still held; what is being given back has its moment.

    Threads that look up names belong to the loop, and end with it.
    """
    with anyio.move_on_after(2):
        while Held.now().beside(before, "tasks", "files"):  # noqa: ASYNC110
            await anyio.sleep(0.01)
    return Held.now().beside(before, "tasks", "files")


def memory() -> float:
    """Return the resident memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
