"""Faults between a feed and its connection: on messages, whatever the transport."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from tapeloom.errors import ConnectionFailed, ConnectionLost
from tapeloom.plugin import Clock, Dial, Endpoint, Link

from ._faults import ON_DIAL, Done, Dose, Ledger, Settings

__all__ = ["Chaos", "wrap"]

#: They end a connection, or all that can be heard on it.
_FATAL = {
    "reset": ("the connection broke: reset by chaos", None),
    "close": ("the server ended the connection in the middle of a message, by chaos", 1006),
    "half_open": ("", None),
}


class Chaos:
    """A way to dial with faults. `done` lists all that were injected so far."""

    def __init__(
        self, dial: Dial, settings: Settings, clock: Clock, feed: str, counters: Counter[str]
    ) -> None:
        self.ledger = Ledger(settings, feed, clock.monotonic)
        self.feed = feed
        self.clock = clock
        self._dial = dial
        self._counters = counters
        self._connections = 0

    @property
    def done(self) -> list[Done]:
        """All that was injected so far, in order."""
        return self.ledger.done

    def enter(self, kind: str, connection: int, message: int = 0) -> None:
        """Count, log and write down a fault."""
        self._counters[f"chaos_{kind}"] += 1
        self.ledger.enter(kind, connection, message)

    @asynccontextmanager
    async def __call__(self, endpoint: Endpoint) -> AsyncIterator[Link]:
        """Dial."""
        self._connections += 1
        number = self._connections
        for dose in self.ledger.some(ON_DIAL):
            if not dose.strikes(self.ledger.age):
                continue
            self.enter(dose.kind, number)
            if dose.kind == "refuse":
                raise ConnectionFailed(self.feed, f"{endpoint.url}: refused by chaos")
            await self.clock.sleep(dose.seconds)
        async with self._dial(endpoint) as link:
            yield _Link(self, link, number)


class _Link:
    """One connection with faults.

    What a read brings becomes steps: messages to hand on together, or a fault of the connection.
    """

    def __init__(self, chaos: Chaos, link: Link, number: int) -> None:
        self._chaos = chaos
        self._link = link
        self._number = number
        self._doses = chaos.ledger.some(but=ON_DIAL)
        self._steps: deque[list[bytes] | tuple[Dose, int] | ConnectionLost] = deque()
        self._batch: list[bytes] = []  # what is handed on next
        self._late: bytes | None = None  # what the next message overtakes
        self._count = 0
        self._open = True  # the other end still hears us

    async def receive(self) -> list[bytes]:
        """Return what the next read brings, spoiled."""
        while True:
            while not self._steps:
                await self._read()
            step = self._steps.popleft()
            if isinstance(step, list):
                return step
            if isinstance(step, ConnectionLost):
                self._steps.append(step)
                raise step
            await self._suffer(*step)

    async def send(self, text: str) -> None:
        """Send one text message, unless nobody hears it."""
        if self._open:
            await self._link.send(text)

    async def ping(self) -> None:
        """Send a ping, unless nobody hears it."""
        if self._open:
            await self._link.ping()

    async def _read(self) -> None:
        try:
            payloads = await self._link.receive()
        except ConnectionLost as lost:
            self._cut()
            self._steps.append(lost)
            return
        age = self._chaos.ledger.age
        for payload in payloads:
            self._count += 1
            if not self._spoil(payload, age):
                return
        if self._late is None or self._batch or not payloads:
            # An empty batch says that something was heard.
            self._steps.append(self._batch)
            self._batch = []

    def _spoil(self, payload: bytes, age: float) -> bool:
        """Put a message where it belongs; return whether more can come after it."""
        copies = 1
        for dose in self._doses:
            if not dose.strikes(age):
                continue
            kind = dose.kind
            if kind in _FATAL:
                self._cut()
                self._steps.append((dose, self._count))
                return False
            if kind in ("stall", "delay", "split"):
                self._cut(late=False)
                self._steps.append((dose, self._count))
                continue
            self._chaos.enter(kind, self._number, self._count)
            if kind == "drop":
                return True
            if kind == "corrupt" and payload:
                place = dose.below(len(payload))
                payload = payload[:place] + b"\0" + payload[place + 1 :]
            elif kind == "duplicate":
                copies = 2
            elif kind == "reorder":
                self._cut(late=self._late is not None)
                self._late = payload
                return True
        self._batch += [payload] * copies
        self._overtaken()
        return True

    def _overtaken(self) -> None:
        if self._late is not None:
            self._batch.append(self._late)
            self._late = None

    def _cut(self, *, late: bool = True) -> None:
        """End the batch here: what follows is handed on by itself."""
        if late:
            self._overtaken()
        if self._batch:
            self._steps.append(self._batch)
            self._batch = []

    async def _suffer(self, dose: Dose, message: int) -> None:
        """Let a fault of the connection happen."""
        self._chaos.enter(dose.kind, self._number, message)
        if dose.kind == "half_open":
            self._open = False
            await anyio.sleep_forever()
        if dose.kind in _FATAL:
            words, code = _FATAL[dose.kind]
            self._steps.clear()
            self._open = False
            lost = ConnectionLost(self._chaos.feed, words, code)
            self._steps.append(lost)
        elif dose.seconds:
            await self._chaos.clock.sleep(dose.seconds)


def wrap(
    dial: Dial,
    settings: Settings,
    clock: Clock,
    *,
    feed: str = "",
    counters: Counter[str] | None = None,
) -> Chaos:
    """Return *dial* with the faults of *settings*. It waits on *clock*, and counts in *counters*."""
    return Chaos(dial, settings, clock, feed, Counter() if counters is None else counters)
