"""Replaces a connection by a successor and merges their events: each event is delivered once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Sequence

import anyio
import structlog

from tapeloom._runtime.backoff import Backoff
from tapeloom.events import OURS, Book, Event, Quote
from tapeloom.plugin import Subscription

from .connection import Connection, ConnectionSetup

log = structlog.get_logger()

#: Sends events through the stages and to the consumers; returns an awaitable to await before more.
Emit = Callable[[list[Event]], Awaitable[None]]

#: A connection that lasted less than these seconds is not replaced, but ended, and a planned end is
#: not followed by a new one at once: a venue that closes every connection must not be dialled in a
#: loop.
MIN_LIFE_SECONDS = 1.0
#: Seconds in which both connections are read side by side before the old one is closed.
_OVERLAP_SECONDS = 5.0
#: Seconds after the switch in which events are still deduplicated: the new connection may lag.
_DEDUPLICATE_SECONDS = 10.0


class Handover:
    """Removes the duplicates of two connections that carry the same subscriptions.

    Before the switch, the old connection's events are recorded and delivered, and the new one's are
    buffered. At the switch, the buffered events that were not recorded are released. After it, the
    new connection's events are deduplicated as well, because it may lag behind the old one.

    A state, such as a quote, that is older than what was delivered is not delivered any more, however
    long it was buffered.
    """

    def __init__(self) -> None:
        self.lock = anyio.Lock()  #: held while delivering: only one connection delivers at a time
        self._recorded: set[Hashable] = set()
        self._last_ids: dict[tuple[str, str], int] = {}  # of books and quotes with sequence ids
        self._last_times: dict[tuple[str, str, type], int] = {}  # of states, in ns
        self._buffered: list[Event] = []
        self._switched = False

    def record(self, events: Iterable[Event]) -> None:
        """Record events that the old connection has delivered, to recognise their duplicates.

        Events with a sequence id are recorded as the highest id per symbol and channel.
        """
        for event in events:
            if type(event) in OURS:  # made by tapeloom, so no connection repeats it
                continue
            sequence_id = _sequence_id(event)
            if sequence_id is None:
                self._recorded.add(event.identity)
                if event.is_state:
                    place = event.symbol, event.channel, type(event)
                    self._last_times[place] = max(event.ts, self._last_times.get(place, 0))
            else:
                key = event.symbol, event.channel
                self._last_ids[key] = max(sequence_id, self._last_ids.get(key, sequence_id))

    def accept(self, events: list[Event]) -> list[Event]:
        """Return the events of the current connection that are to be delivered."""
        if self._switched:
            return self.deduplicate(events)
        self.record(events)
        return events

    def clear(self) -> None:
        """Discard the buffered events of a successor that has failed."""
        self._buffered.clear()

    def buffer(self, events: Iterable[Event]) -> None:
        """Keep events of the new connection until the switch."""
        self._buffered += events

    def switch(self) -> list[Event]:
        """Make the new connection the current one; return its buffered events, deduplicated."""
        self._switched = True
        buffered, self._buffered = self._buffered, []
        return self.deduplicate(buffered)

    def deduplicate(self, events: Sequence[Event]) -> list[Event]:
        """Return the events that the old connection has not delivered."""
        return [event for event in events if type(event) in OURS or not self._is_recorded(event)]

    def _is_recorded(self, event: Event) -> bool:
        sequence_id = _sequence_id(event)
        if sequence_id is None:
            place = event.symbol, event.channel, type(event)
            is_old = event.is_state and event.ts < self._last_times.get(place, 0)
            return is_old or event.identity in self._recorded
        return sequence_id <= self._last_ids.get((event.symbol, event.channel), sequence_id - 1)


def _sequence_id(event: Event) -> int | None:
    """Return the sequence id of a book or quote, None where it has none."""
    if isinstance(event, Book):
        return event.last_id
    return event.sequence if isinstance(event, Quote) else None


class ConnectionPair:
    """The current connection to an endpoint and, while it is replaced, its successor.

    Their events are emitted with the gaps before them.
    """

    def __init__(self, setup: ConnectionSetup, emit: Emit) -> None:
        self.current: Connection | None = None
        self.successor: Connection | None = None
        self.tasks: anyio.abc.TaskGroup | None = None
        self._setup = setup
        self._emit = emit
        gaps = setup.plan.gaps
        self._add_seen, self._watched = gaps.last_seen.add, gaps.watched
        self._handover: Handover | None = None

    @property
    def connections(self) -> list[Connection]:
        """The connections that there are."""
        connections = self.current, self.successor
        return [connection for connection in connections if connection is not None]

    # ----------------------------------------------------------------------------------- lifecycle

    async def run(self) -> Connection:
        """Run a connection and its successors until one ends without a successor; return that one."""
        first = self.current = self._new_connection()
        try:
            async with anyio.create_task_group() as tasks:
                self.tasks = tasks
                tasks.start_soon(self._run_connection, first)
        finally:
            last = self.current
            self._end_handover()
            self.tasks = self.current = self.successor = None
        return last

    def _new_connection(self) -> Connection:
        return Connection(self._setup, self._on_events, self._start_replacing)

    async def _run_connection(self, connection: Connection) -> None:
        """Run one connection; if it is the current one and has no successor, end `run`."""
        await connection.run()
        if connection is not self.current:
            if connection is self.successor:
                reason = str(connection.outcome)
                log.warning("successor_failed", feed=self._setup.plan.feed.name, reason=reason)
            return
        successor = self.successor
        if successor is not None and successor.opened_at is not None and not successor.ended:
            # What was sent between the last byte here and an acknowledgement there is lost.
            complete_until = connection.intake.deadlines.last_byte
            covered = successor.subscriptions.acknowledged_by(complete_until)
            self._connection_lost(connection, but=covered, replaced=True)
            await self._switch(connection, successor)
            return
        self._connection_lost(connection)
        assert self.tasks is not None
        self.tasks.cancel_scope.cancel()

    def _connection_lost(
        self, connection: Connection, but: Collection[Subscription] = (), *, replaced: bool = False
    ) -> None:
        """Open gaps for what *connection* carried, *but* for some subscriptions."""
        lost = [subscription for subscription in self._setup.wanted if subscription not in but]
        times = connection.intake.last_recv, connection.intake.deadlines.last_byte
        self._setup.monitor.connection_lost(lost, *times, replaced=replaced)

    # ------------------------------------------------------------------------------------ handover

    def _start_replacing(self, connection: Connection) -> bool:
        """Start to replace *connection*; return False if no second one is possible beside it."""
        if connection is not self.current or self.tasks is None:
            return True  # it is being replaced already, or has ended
        if self._handover is None:
            lived = self._setup.plan.feed.clock.monotonic() - (connection.opened_at or 0.0)
            if lived < MIN_LIFE_SECONDS or not self._setup.limits.has_room():
                return False
            self._handover = Handover()
            self._record_handover("begun")
            self.tasks.start_soon(self._replace, connection, self._handover)
        return True

    async def _replace(self, old: Connection, handover: Handover) -> None:
        """Open a successor beside *old*, retrying until one is ready, and switch to it."""
        feed, report = self._setup.plan.feed, self._setup.report
        clock, backoff = feed.clock, Backoff(feed.random)
        assert self.tasks is not None
        await report("replacing", f"{self._setup.label}: a second connection takes over")
        while self.current is old:
            new = self.successor = self._new_connection()
            self.tasks.start_soon(self._run_connection, new)
            await new.subscriber.ready.wait()
            if not new.ended:
                await clock.sleep(_OVERLAP_SECONDS)
            if not new.ended and self.current is old:
                await self._switch(old, new)
            elif self.current is old:
                handover.clear()
                self._record_handover("cleared")
                await clock.sleep(backoff.next())
        await clock.sleep(_DEDUPLICATE_SECONDS)
        if self._handover is handover:
            self._end_handover()

    def _end_handover(self) -> None:
        if self._handover is not None:
            self._handover = None
            self._record_handover("over")

    def _record_handover(self, step: str) -> None:
        setup, number = self._setup, self.current.intake.connection if self.current else 0
        now = setup.plan.feed.clock.time_ns()
        setup.plan.facts.record(now, "handover", label=setup.label, step=step, connection=number)

    async def _switch(self, old: Connection, new: Connection) -> None:
        """Make the successor *new* the current connection, and end *old*."""
        handover = self._handover
        assert handover is not None
        async with handover.lock:
            self.current, self.successor = new, None
            self._record_handover("switched")
            old.end("replaced")
            self._setup.plan.feed.counters["replacements"] += 1
            await self._process(new, handover.switch())
        await self._setup.report("replaced", self._setup.label)

    # -------------------------------------------------------------------------------------- events

    def _on_events(self, connection: Connection, events: list[Event]) -> Awaitable[None]:
        """Insert gaps and emit the events of one read (hot path).

        Returns `DONE` if the events are delivered. Otherwise the caller must await the result, which
        delivers the rest when full queues have room, or when the handover's lock is free.
        """
        has_pending = connection.subscriptions.has_pending
        if has_pending:
            connection.subscriptions.process(events)
        if self._handover is not None:
            return self._on_events_in_handover(self._handover, connection, events)
        if has_pending or self._watched:
            return self._process(connection, events)
        self._add_seen(events)
        return self._emit(events)

    async def _on_events_in_handover(
        self, handover: Handover, connection: Connection, events: list[Event]
    ) -> None:
        async with handover.lock:
            plan, number = self._setup.plan, connection.intake.connection
            plan.facts.record(plan.feed.clock.time_ns(), "handover_read", connection=number)
            if connection is self.successor:
                handover.buffer(events)
            elif connection is self.current:
                await self._process(connection, handover.accept(events))

    def _process(self, connection: Connection, batch: list[Event]) -> Awaitable[None]:
        """Emit a batch that may end gaps or precede the acknowledgement of its subscription."""
        return self._emit(self._setup.monitor.process(batch, connection.subscriptions))
