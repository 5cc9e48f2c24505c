"""Fake connections without a socket: a function of the test acts as the venue."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio
from attrs import define, field
from tapeloom.errors import ConnectionLost, unwrap_single
from tapeloom.plugin import Endpoint, Link

__all__ = ["FakeWire", "WireEnd"]


class WireEnd:
    """The venue's end of one connection: records what the client sends and pushes frames to it."""

    def __init__(self) -> None:
        self.sent: list[str] = []  #: texts that the client sent, "<ping>" for a ping
        self._incoming: list[list[bytes]] = []
        self._lost: ConnectionLost | None = None
        self._more = anyio.Event()
        self._text_sent = anyio.Event()
        self._taken = 0

    def push(self, *texts: str | bytes) -> None:
        """Deliver these frames to the client in one read."""
        self._incoming.append([t.encode() if isinstance(t, str) else t for t in texts])
        self._more.set()

    def close(self, code: int | None = 1006, message: str = "closed by the test") -> None:
        """Close the connection after the pushed frames are read."""
        self._lost = ConnectionLost("", message, code)
        self._more.set()

    async def receive(self) -> list[bytes]:
        """Return the frames of the next read; called by the client.

        Raises ConnectionLost once the connection is closed and all frames are read.
        """
        while not self._incoming:
            if self._lost is not None:
                raise self._lost
            self._more = anyio.Event()
            await self._more.wait()
        return self._incoming.pop(0)

    async def send(self, text: str) -> None:
        """Record a text that the client sends.

        Raises ConnectionLost once the connection is closed.
        """
        if self._lost is not None:
            raise self._lost
        self._record(text)

    async def ping(self) -> None:
        """Record a ping that the client sends."""
        self._record("<ping>")

    async def take(self) -> str:
        """Wait for the next text that the client sends and return it; called by the venue."""
        while self._taken == len(self.sent):
            self._text_sent = anyio.Event()
            await self._text_sent.wait()
        self._taken += 1
        return self.sent[self._taken - 1]

    def _record(self, text: str) -> None:
        self.sent.append(text)
        self._text_sent.set()


@define
class FakeWire:
    """Connections without a socket: pass `dial` to `tapeloom.open`.

    `answer` acts as the venue: it is called with the end of each new connection, in a task of its
    own. An exception that it raises before its first await is raised by `dial`.
    """

    answer: Callable[[WireEnd, Endpoint], Coroutine[Any, Any, None]]
    ends: list[WireEnd] = field(factory=list)  #: every connection so far, the newest last
    refusals: list[Exception] = field(factory=list)  #: raised by the next dials, one each

    @asynccontextmanager
    async def dial(self, endpoint: Endpoint) -> AsyncIterator[Link]:
        """Open a connection; raise the next of `refusals`, if any."""
        if self.refusals:
            raise self.refusals.pop(0)
        end = WireEnd()
        self.ends.append(end)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.answer, end, endpoint)
                try:
                    yield end
                finally:
                    tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise unwrap_single(group) from None
