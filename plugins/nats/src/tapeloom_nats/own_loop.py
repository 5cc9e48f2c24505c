"""Runs coroutines of nats-py, which needs asyncio, for a stream that runs on another event loop."""

from __future__ import annotations

import asyncio  # noqa: TID251 nats-py runs on nothing else
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from anyio import to_thread

__all__ = ["OwnLoop", "runs_on_asyncio"]

T = TypeVar("T")


def runs_on_asyncio() -> bool:
    """Return whether the caller runs on asyncio."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class OwnLoop:
    """An asyncio loop in a worker thread, which turns during a call only.

    A call that is cancelled is left to its thread; the next one waits for its end.
    """

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._lock = threading.Lock()

    async def run(self, method: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Return what an async method returns, or raise what it raises."""
        return await to_thread.run_sync(self._run, method, args, abandon_on_cancel=True)

    def _run(self, method: Callable[..., Coroutine[Any, Any, T]], args: Sequence[Any]) -> T:
        with self._lock:
            return self._runner.run(method(*args))

    async def close(self) -> None:
        """Close the loop."""
        await to_thread.run_sync(self._close, abandon_on_cancel=True)

    def _close(self) -> None:
        with self._lock:
            self._runner.close()
