"""The event loop that runs us: which it is, and the cheapest way to wait on it.

anyio's events serve once, and are made anew in layers for each wait. A consumer that takes lone frames
waits thousands of times a second; there the event costs as much as the trade.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - a future of this loop is the cheapest thing to wait for
import sys
from collections.abc import Awaitable, Generator
from typing import Final, Protocol

import anyio


def running_backend() -> str:
    """Return the name of the event loop that runs us."""
    trio = sys.modules.get("trio")
    return "trio" if trio is not None and trio.lowlevel.in_trio_run() else "asyncio"


class Notify(Protocol):
    """Wakes everybody who waits when it is rung; it can be rung again and again."""

    def wait(self) -> Awaitable[None]:
        """Return what is to be awaited, at once, until it is rung for the next time."""
        ...

    def ring(self) -> None:
        """Wake whoever waits."""
        ...


def bell() -> Notify:
    """Return a bell for the loop that runs us."""
    return _AnyBell() if running_backend() == "trio" else _FutureBell()


class _FutureBell:
    """A bell on asyncio."""

    __slots__ = ("_loop", "_waiters")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiters: list[asyncio.Future[None]] = []

    def wait(self) -> Awaitable[None]:
        if self._waiters:  # some may have given up waiting
            self._waiters = [one for one in self._waiters if not one.done()]
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        return waiter

    def ring(self) -> None:
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)


class _AnyBell:
    """A bell on any loop."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def wait(self) -> Awaitable[None]:
        if self._event is None:
            self._event = anyio.Event()
        return self._event.wait()

    def ring(self) -> None:
        if self._event is not None:
            self._event.set()
            self._event = None


class _Done:
    """An awaitable that has nothing to wait for.

    On the hot path functions are plain, and return an awaitable: nearly always this one, which
    whoever called need not even await. A coroutine for each step of each batch would cost as much
    as the step.
    """

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


DONE: Final = _Done()
