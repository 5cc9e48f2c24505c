"""Writes the events of one sink to its spool, and from there to the store, beside each other."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import anyio
import structlog
from anyio import to_thread

from tapeloom._runtime.event_loop import Notify, new_notify
from tapeloom.errors import SinkRefused, SinkUnavailable
from tapeloom.events import Event
from tapeloom.plugin import Clock

from .positions import Position, Positions, texts
from .writer import Writer

if TYPE_CHECKING:
    from .spool import Spool

log = structlog.get_logger()

T = TypeVar("T")

#: Seconds between two deletions of what is stored.
_SAVE_SECONDS = 1.0
#: Events of the spool that are also kept in memory, so that they need not be read back.
_MAX_IN_MEMORY = 50_000
#: Events that are read back at a time.
_READ = 4096
#: Seconds after which a full spool, or one that cannot be written, is tried again.
_RETRY_SECONDS = 0.25


class SpooledWriter:
    """A writer with a spool before it. Its `positions` include what is only in the spool."""

    def __init__(self, writer: Writer, spool: Spool, clock: Clock, counters: Counter[str]) -> None:
        self.positions = Positions()
        self._cursors = writer.cursors
        self._writer = writer
        self._spool = spool
        self._clock = clock
        self._counters = counters
        self._lock = anyio.Lock()  # of the spool
        self._memory: deque[tuple[int, list[Event]]] = deque()
        self._memory_count = 0
        self._memory_end = 0  # number of the last event in memory, or taken
        self._taken = 0  # number of the last event that was taken to be written
        self._unsaved: dict[tuple[str, str, str], Position] = {}
        self._saved_at = 0.0
        self._in_hand: list[Event] = []
        self._ended = False
        self._changed: Notify | None = None

    async def open(self, epoch: int) -> int:
        """Open the spool; return the run that its events are numbered in, *epoch* for a new one.

        Raises SinkRefused.
        """
        saved = self._cursors.restore(await self._call(self._spool.open, epoch))
        for number, cursors in self._spool.cursors():
            self._cursors.restore(cursors, number)
        self.positions.restore(saved)
        self._writer.positions.restore(saved)
        self._writer.stored = self._spool.stored
        self._writer.knows_positions = bool(saved)
        self._taken = self._memory_end = self._spool.stored
        number = self._spool.accepted
        while number < self._spool.last:  # positions are saved later than events
            first, events = await self._call(self._spool.read, number, _READ)
            self._advance(events)
            number = first + len(events) - 1
        return self._spool.epoch

    def merge(self, known: Positions) -> None:
        """Take over what the store says of its positions, for a spool that has none."""
        self.positions.merge(known)
        self._unsaved.update(self.positions.by_key())

    def _advance(self, events: list[Event]) -> None:
        """Bring the positions to after *events*, which are in the spool; they are saved later."""
        changed = self.positions.after(events)
        self.positions.update(changed)
        self._unsaved.update(changed)

    async def run(self, collect: Callable[[], Awaitable[list[Event]]]) -> None:
        """Spool what *collect* returns, and write it, until it returns nothing and all is stored."""
        self._changed = new_notify()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._write)
            while events := await collect():
                self._in_hand = events
                await self._append(events)
            self._ended = True
            self._changed.notify_all()

    async def _append(self, events: list[Event]) -> None:
        """Add events to the spool, when there is room."""
        is_first = True
        while True:
            try:
                if await self._call(self._append_in_thread, events):
                    break
                reason = "it is full"
            except SinkUnavailable as error:
                reason = str(error)
            if is_first:
                log.error("spool_failed", sink=self._writer.name, reason=reason)
            is_first = False
            await self._clock.sleep(_RETRY_SECONDS)
            await self._save()
        self._in_hand = []
        last = self._spool.last
        first = last - len(events) + 1
        if first == self._memory_end + 1 and self._memory_count + len(events) <= _MAX_IN_MEMORY:
            self._memory.append((first, events))
            self._memory_count += len(events)
            self._memory_end = last
        assert self._changed is not None
        self._changed.notify_all()
        if self._clock.monotonic() - self._saved_at > _SAVE_SECONDS:
            await self._save()

    def _append_in_thread(self, events: list[Event]) -> bool:
        if not self._spool.append(events, self._cursors.taken()):
            return False
        self._cursors.number(self._spool.last)
        self._advance(events)
        return True

    async def _save(self) -> None:
        """Delete what is stored from the spool, and save the positions."""
        self._saved_at = self._clock.monotonic()
        unsaved, self._unsaved = self._unsaved, {}
        try:
            await self._call(self._spool.save, self._writer.stored, texts(unsaved))
        except SinkUnavailable as error:
            self._unsaved = {**unsaved, **self._unsaved}
            log.error("spool_failed", sink=self._writer.name, reason=str(error))
        self._counters["spooled"] = self._spool.count

    async def _write(self) -> None:
        """Write what is in the spool to the store, until all is stored and no more will come."""
        assert self._changed is not None
        while True:
            if self._memory:
                first, events = self._pop_memory()
            elif self._taken < self._spool.last:
                first, events = await self._read()
            elif self._ended:
                return
            else:
                await self._changed.wait()
                continue
            self._taken = first + len(events) - 1
            try:
                await self._writer.write(first, events)
            except SinkRefused as error:
                log.error(
                    "sink_disabled", sink=self._writer.name, reason=str(error), events_lost=0,
                    spooled=self._spool.count,
                )  # fmt: skip
                return  # events are spooled on: they are written after the next start

    async def _read(self) -> tuple[int, list[Event]]:
        """Return the next events on disk, and the number of the first; wait until they can be read."""
        is_first = True
        while True:
            try:
                first, events = await self._call(self._spool.read, self._taken, _READ)
            except SinkUnavailable as error:
                if is_first:
                    log.error("spool_failed", sink=self._writer.name, reason=str(error))
                is_first = False
                await self._clock.sleep(_RETRY_SECONDS)
                continue
            self._memory_end = max(self._memory_end, first + len(events) - 1)
            return first, events

    def _pop_memory(self) -> tuple[int, list[Event]]:
        """Return the next events in memory, several batches together, and the number of the first."""
        first, events = self._memory.popleft()
        while self._memory and len(events) < _READ:
            events = [*events, *self._memory.popleft()[1]]
        self._memory_count -= len(events)
        return first, events

    async def close(self, rest: list[Event]) -> int:
        """Spool what is in hand, and *rest*; close the spool; return how many events are lost."""
        rest = [*self._in_hand, *rest]
        lost = len(rest)
        if not self._spool.is_open:
            return lost
        try:
            if lost and await self._call(self._append_in_thread, rest):
                lost = 0
            await self._save()
        except SinkUnavailable as error:
            log.error("spool_failed", sink=self._writer.name, reason=str(error))
        await self._call(self._spool.close)
        return lost

    async def _call(self, method: Callable[..., T], *args: object) -> T:
        async with self._lock:
            return await to_thread.run_sync(method, *args)
