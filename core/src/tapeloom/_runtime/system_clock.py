"""The clock of a live stream: system time, and the event loop's sleep."""

from __future__ import annotations

import time

import anyio


class SystemClock:
    """The system's clocks."""

    time_ns = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        """Wait for *seconds*."""
        await anyio.sleep(seconds)
