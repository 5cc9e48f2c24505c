"""A clock that moves when everybody waits."""

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

_STEPS = 10


class VirtualClock:
    """Time that passes only when told to, or, inside `running`, when everybody waits for it."""

    def __init__(self, start_ns: int = 1_700_000_000_000_000_000) -> None:
        self._start_ns = start_ns
        self._now = 0.0
        self._sleepers: list[tuple[float, int, anyio.Event]] = []
        self._number = count()

    def time_ns(self) -> int:
        """Return virtual nanoseconds since 1970."""
        return self._start_ns + round(self._now * 1_000_000_000)

    def monotonic(self) -> float:
        """Return virtual seconds since the clock was made."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait for virtual seconds."""
        sleeper = (self._now + max(seconds, 0), next(self._number), anyio.Event())
        heapq.heappush(self._sleepers, sleeper)
        try:
            await sleeper[2].wait()
        finally:
            if sleeper in self._sleepers:  # whoever gives up waiting must not move the time
                self._sleepers.remove(sleeper)
                heapq.heapify(self._sleepers)

    def advance(self, seconds: float) -> None:
        """Let time pass, and wake everyone whose time has come."""
        self._now += seconds
        while self._sleepers and self._sleepers[0][0] <= self._now:
            heapq.heappop(self._sleepers)[2].set()

    async def jump(self) -> None:
        """Wait until every task waits, then go to the moment at which the next one wakes."""
        trio = sys.modules.get("trio")
        if trio is None or not trio.lowlevel.in_trio_run():
            # On asyncio, anyio looks again only after 0.1 s where a task is still about to run: let
            # them come to rest first.
            for _ in range(_STEPS):
                await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()
        if self._sleepers:
            self.advance(max(self._sleepers[0][0] - self._now, 0))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Let time jump by itself whenever every task waits."""

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
