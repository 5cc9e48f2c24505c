"""A virtual clock, which jumps ahead when all tasks wait."""

from __future__ import annotations

import heapq
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Self

import anyio
import anyio.lowlevel
from tapeloom.errors import unwrap_single

__all__ = ["VirtualClock"]

#: Event-loop iterations that let ready tasks run before the clock jumps.
_STEPS = 10


class VirtualClock:
    """A clock that moves only in `advance` and `jump`, or, inside `running`, when all tasks wait."""

    def __init__(self, start_ns: int = 1_700_000_000_000_000_000) -> None:
        self._start_ns = start_ns
        self._now = 0.0
        self._sleepers: list[tuple[float, int, anyio.Event]] = []
        self._number = count()

    def time_ns(self) -> int:
        """Return virtual nanoseconds since 1970."""
        return self._start_ns + round(self._now * 1_000_000_000)

    def monotonic(self) -> float:
        """Return virtual seconds since the clock was created."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait for *seconds* of virtual time."""
        sleeper = (self._now + max(seconds, 0), next(self._number), anyio.Event())
        heapq.heappush(self._sleepers, sleeper)
        try:
            await sleeper[2].wait()
        finally:
            if sleeper in self._sleepers:  # a cancelled sleeper must not move the time
                self._sleepers.remove(sleeper)
                heapq.heapify(self._sleepers)

    def advance(self, seconds: float) -> None:
        """Move the time forward by *seconds* and wake every sleeper that is due."""
        self._now += seconds
        while self._sleepers and self._sleepers[0][0] <= self._now:
            heapq.heappop(self._sleepers)[2].set()

    async def jump(self) -> None:
        """Wait until all tasks wait, then advance to the time at which the next sleeper is due."""
        trio = sys.modules.get("trio")
        if trio is None or not trio.lowlevel.in_trio_run():
            # On asyncio, anyio polls every 0.1 s while a task is still ready to run: let all tasks
            # run until they wait.
            for _ in range(_STEPS):
                await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()
        if self._sleepers:
            self.advance(max(self._sleepers[0][0] - self._now, 0))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Jump ahead automatically whenever all tasks wait."""

        async def keep_jumping() -> None:
            while True:
                await self.jump()
                await anyio.lowlevel.checkpoint()

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(keep_jumping)
                yield self
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise unwrap_single(group) from None
