"""The running event loop: its name, and the cheapest objects to await on it.

An `anyio.Event` can be set once and is costly to create. A consumer of single events waits
thousands of times a second, so that a new Event per wait would cost as much as the trade itself.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - a future of this loop is the cheapest object to await
import sys
from collections.abc import Awaitable, Generator
from typing import Final, Protocol

import anyio


def running_backend() -> str:
    """Return the name of the running event loop: asyncio or trio."""
    trio = sys.modules.get("trio")
    return "trio" if trio is not None and trio.lowlevel.in_trio_run() else "asyncio"


class Notify(Protocol):
    """Wakes all waiting tasks, as `asyncio.Condition.notify_all` does. It keeps no state."""

    def wait(self) -> Awaitable[None]:
        """Return an awaitable that ends at the next `notify_all`; it must be awaited at once."""
        ...

    def notify_all(self) -> None:
        """Wake all waiting tasks."""
        ...


def new_notify() -> Notify:
    """Return a Notify for the running event loop."""
    return _EventNotify() if running_backend() == "trio" else _FutureNotify()


class _FutureNotify:
    """A Notify on asyncio futures."""

    __slots__ = ("_loop", "_waiters")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiters: list[asyncio.Future[None]] = []

    def wait(self) -> Awaitable[None]:
        if self._waiters:  # some may have been cancelled
            self._waiters = [waiter for waiter in self._waiters if not waiter.done()]
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        return waiter

    def notify_all(self) -> None:
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)


class _EventNotify:
    """A Notify on anyio events, for any event loop."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def wait(self) -> Awaitable[None]:
        if self._event is None:
            self._event = anyio.Event()
        return self._event.wait()

    def notify_all(self) -> None:
        if self._event is not None:
            self._event.set()
            self._event = None


class _Done:
    """An awaitable that is done.

    Functions on the hot path are not coroutines: they return an awaitable, nearly always this one,
    which the caller need not await. A coroutine per step and batch would cost as much as the step.
    """

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


DONE: Final = _Done()
