"""Event loops with virtual time, which jumps ahead when all tasks wait: for tests with real sockets.

`VirtualClock` replaces only the clock that tapeloom reads. Here the event loop itself keeps virtual
time, so a server, its clients and all libraries share it, and a day takes only as long as its work.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - this is an event loop
import selectors
from typing import Any

import anyio
import anyio.to_thread

__all__ = ["LoopClock", "virtual_backend"]

#: Real seconds between polls while a worker thread runs: it takes no virtual time.
_GRACE = 0.001


class LoopClock:
    """The event loop's time as a clock for `tapeloom.open`; loop time 0 is *start_ns*."""

    def __init__(self, start_ns: int = 1_700_000_000_000_000_000) -> None:
        self._start_ns = start_ns

    def time_ns(self) -> int:
        """Return nanoseconds since 1970."""
        return self._start_ns + round(anyio.current_time() * 1_000_000_000)

    def monotonic(self) -> float:
        """Return seconds on the loop's clock."""
        return anyio.current_time()

    async def sleep(self, seconds: float) -> None:
        """Wait for *seconds* of the loop's time."""
        await anyio.sleep(seconds)


def virtual_backend(name: str) -> tuple[str, dict[str, Any]]:
    """Return the backend *name*, "asyncio" or "trio", with virtual time that starts at 0.

    Return it from an `anyio_backend` fixture, or pass its two items to `anyio.run` as ``backend`` and
    ``backend_options``. Time jumps when no task can run and no socket of this process is readable:
    over loopback, sent data is readable at once. Data from another process is not waited for.
    """
    if name == "asyncio":
        return name, {"loop_factory": _Loop}
    from trio.testing import MockClock

    return name, {"clock": MockClock(autojump_threshold=0)}


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that advances its clock instead of sleeping."""

    def __init__(self) -> None:
        super().__init__(_Selector(self))
        self.now = 0.0
        self.threads = 0

    def time(self) -> float:
        return self.now

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        # For example DNS lookups: work outside the loop takes no virtual time.
        future = super().run_in_executor(executor, func, *args)
        self.threads += 1
        future.add_done_callback(self._returned)
        return future

    async def shutdown_default_executor(self, *args: Any, **named: Any) -> None:
        # Its timeout of minutes would elapse at once in virtual time.
        self.threads += 1
        try:
            await super().shutdown_default_executor(*args, **named)
        finally:
            self.threads -= 1

    def _returned(self, future: object) -> None:
        self.threads -= 1

    @property
    def working(self) -> bool:
        """Whether a worker thread runs for one of the tasks."""
        return bool(
            self.threads or anyio.to_thread.current_default_thread_limiter().borrowed_tokens
        )


class _Selector(selectors.DefaultSelector):
    """Polls for ready sockets; if none is ready, advances the loop's time at once."""

    def __init__(self, loop: _Loop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            return super().select(None)
        if self._loop.working:
            return super().select(_GRACE)
        self._loop.now += max(timeout, 0.0)
        return []
