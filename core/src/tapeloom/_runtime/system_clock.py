"""The clock of a live stream: the machine's time, the event loop's waiting."""

from __future__ import annotations

import time

import anyio


class SystemClock:
    """Time as the machine keeps it."""

    time_ns = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await anyio.sleep(seconds)
