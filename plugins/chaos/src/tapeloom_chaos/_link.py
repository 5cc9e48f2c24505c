"""Faults injected between a feed and its connection: into messages, with any transport."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from tapeloom.errors import ConnectionFailed, ConnectionLost
from tapeloom.plugin import Clock, Dial, Endpoint, Link

from ._faults import ON_DIAL, FaultInjector, FaultSchedule, InjectedFault, Settings

__all__ = ["Chaos", "wrap"]

#: The faults that end a connection, or all reading on it: message and close code of ConnectionLost.
_FATAL = {
    "reset": ("the connection was reset by chaos", None),
    "close": ("the connection was closed by chaos in the middle of a message", 1006),
    "half_open": ("", None),
}


class Chaos:
    """A dial that injects faults. `injected` lists the faults injected so far."""

    def __init__(
        self, dial: Dial, settings: Settings, clock: Clock, feed: str, counters: Counter[str]
    ) -> None:
        self.injector = FaultInjector(settings, feed, clock.monotonic)
        self.feed = feed
        self.clock = clock
        self._dial = dial
        self._counters = counters
        self._connections = 0

    @property
    def injected(self) -> list[InjectedFault]:
        """The faults injected so far, in order."""
        return self.injector.injected

    def record(self, kind: str, connection: int, message: int = 0) -> None:
        """Count, log and record an injected fault."""
        self._counters[f"chaos_{kind}"] += 1
        self.injector.record(kind, connection, message)

    @asynccontextmanager
    async def __call__(self, endpoint: Endpoint) -> AsyncIterator[Link]:
        """Dial *endpoint*; a fault may refuse or delay the dial.

        Raises ConnectionFailed.
        """
        self._connections += 1
        number = self._connections
        for schedule in self.injector.schedules_of(ON_DIAL):
            if not schedule.is_due(self.injector.age):
                continue
            self.record(schedule.kind, number)
            if schedule.kind == "refuse":
                raise ConnectionFailed(self.feed, f"{endpoint.url}: refused by chaos")
            await self.clock.sleep(schedule.seconds)
        async with self._dial(endpoint) as link:
            yield _Link(self, link, number)


class _Link:
    """One connection with faults.

    Each read is turned into steps: a batch of messages to deliver, or a fault of the connection.
    """

    def __init__(self, chaos: Chaos, link: Link, number: int) -> None:
        self._chaos = chaos
        self._link = link
        self._number = number
        self._schedules = chaos.injector.schedules_of(excluding=ON_DIAL)
        self._steps: deque[list[bytes] | tuple[FaultSchedule, int] | ConnectionLost] = deque()
        self._batch: list[bytes] = []  # the messages of the next step
        self._late: bytes | None = None  # delivered after the next message
        self._count = 0
        self._open = True  # False once a fault has cut the connection: nothing is sent

    async def receive(self) -> list[bytes]:
        """Return the messages of the next read, with faults.

        Raises ConnectionLost.
        """
        while True:
            while not self._steps:
                await self._read()
            step = self._steps.popleft()
            if isinstance(step, list):
                return step
            if isinstance(step, ConnectionLost):
                self._steps.append(step)
                raise step
            await self._inject(*step)

    async def send(self, text: str) -> None:
        """Send a text message, unless a fault has cut the connection."""
        if self._open:
            await self._link.send(text)

    async def ping(self) -> None:
        """Send a ping, unless a fault has cut the connection."""
        if self._open:
            await self._link.ping()

    async def _read(self) -> None:
        try:
            payloads = await self._link.receive()
        except ConnectionLost as lost:
            self._end_batch()
            self._steps.append(lost)
            return
        age = self._chaos.injector.age
        for payload in payloads:
            self._count += 1
            if not self._apply_faults(payload, age):
                return
        if self._late is None or self._batch or not payloads:
            # An empty batch reports that a control frame arrived.
            self._steps.append(self._batch)
            self._batch = []

    def _apply_faults(self, payload: bytes, age: float) -> bool:
        """Add a message to the batch, with the faults that are due.

        *age* is the time since the first read through chaos, in seconds. Returns False if a fault ends the
        connection.
        """
        copies = 1
        for schedule in self._schedules:
            if not schedule.is_due(age):
                continue
            kind = schedule.kind
            if kind in _FATAL:
                self._end_batch()
                self._steps.append((schedule, self._count))
                return False
            if kind in ("stall", "delay", "split"):
                self._end_batch(late=False)
                self._steps.append((schedule, self._count))
                continue
            self._chaos.record(kind, self._number, self._count)
            if kind == "drop":
                return True
            if kind == "corrupt" and payload:
                index = schedule.random_below(len(payload))
                payload = payload[:index] + b"\0" + payload[index + 1 :]
            elif kind == "duplicate":
                copies = 2
            elif kind == "reorder":
                self._end_batch(late=self._late is not None)
                self._late = payload
                return True
        self._batch += [payload] * copies
        self._append_late()
        return True

    def _append_late(self) -> None:
        if self._late is not None:
            self._batch.append(self._late)
            self._late = None

    def _end_batch(self, *, late: bool = True) -> None:
        """End the batch here: later messages are delivered in another read."""
        if late:
            self._append_late()
        if self._batch:
            self._steps.append(self._batch)
            self._batch = []

    async def _inject(self, schedule: FaultSchedule, message: int) -> None:
        """Inject a fault of the connection."""
        self._chaos.record(schedule.kind, self._number, message)
        if schedule.kind == "half_open":
            self._open = False
            await anyio.sleep_forever()
        if schedule.kind in _FATAL:
            message_text, code = _FATAL[schedule.kind]
            self._steps.clear()
            self._open = False
            lost = ConnectionLost(self._chaos.feed, message_text, code)
            self._steps.append(lost)
        elif schedule.seconds:
            await self._chaos.clock.sleep(schedule.seconds)


def wrap(
    dial: Dial,
    settings: Settings,
    clock: Clock,
    *,
    feed: str = "",
    counters: Counter[str] | None = None,
) -> Chaos:
    """Return *dial* with the faults of *settings*; it waits on *clock* and counts in *counters*."""
    return Chaos(dial, settings, clock, feed, Counter() if counters is None else counters)
