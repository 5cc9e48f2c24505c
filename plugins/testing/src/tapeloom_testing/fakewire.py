"""Connections without a socket: the venue is a function of the test."""

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
    """The venue's end of one connection: what the client sent, and a way to answer."""

    def __init__(self) -> None:
        self.sent: list[str] = []  #: texts that the client sent, "<ping>" for a ping
        self._incoming: list[list[bytes]] = []
        self._lost: ConnectionLost | None = None
        self._more = anyio.Event()
        self._said = anyio.Event()
        self._taken = 0

    def push(self, *texts: str | bytes) -> None:
        """Let the client's next read bring these frames together."""
        self._incoming.append([t.encode() if isinstance(t, str) else t for t in texts])
        self._more.set()

    def close(self, code: int | None = 1006, message: str = "closed by the test") -> None:
        """End the connection, after what was pushed."""
        self._lost = ConnectionLost("", message, code)
        self._more.set()

    async def receive(self) -> list[bytes]:
        """Return what the next read brings; the client's side."""
        while not self._incoming:
            if self._lost is not None:
                raise self._lost
            self._more = anyio.Event()
            await self._more.wait()
        return self._incoming.pop(0)

    async def send(self, text: str) -> None:
        """Take a text from the client."""
        if self._lost is not None:
            raise self._lost
        self._say(text)

    async def ping(self) -> None:
        """Take a ping from the client."""
        self._say("<ping>")

    async def take(self) -> str:
        """Return the next text that the client sent, waiting for it; the venue's side."""
        while self._taken == len(self.sent):
            self._said = anyio.Event()
            await self._said.wait()
        self._taken += 1
        return self.sent[self._taken - 1]

    def _say(self, text: str) -> None:
        self.sent.append(text)
        self._said.set()


@define
class FakeWire:
    """Connections without a socket: give `dial` to `tapeloom.open`.

    `answer` is called with the end of each new connection, in a task of its own, and plays the
    venue. What it raises while dialling (before its first await) is met by whoever dials.
    """

    answer: Callable[[WireEnd, Endpoint], Coroutine[Any, Any, None]]
    ends: list[WireEnd] = field(factory=list)  #: every connection so far, the newest last
    refusals: list[Exception] = field(factory=list)  #: met, one by one, by the next dials

    @asynccontextmanager
    async def dial(self, endpoint: Endpoint) -> AsyncIterator[Link]:
        """Open a connection."""
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
