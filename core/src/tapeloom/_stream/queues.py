"""Bounded queues of event batches, one per consumer, each with an overflow policy.

Dropped events are counted, and a `Gap` with the cause "overflow" before the next batch tells the
consumer how many events of which symbol and channel it missed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from tapeloom._runtime.event_loop import Notify, new_notify
from tapeloom.errors import QueueOverflow
from tapeloom.events import OURS, Event, Gap, Trade
from tapeloom.plugin import DELAY_BOUNDS, Clock, Cursor, QueueState, TradeBatch

if TYPE_CHECKING:
    from tapeloom._config import QueueSpec
    from tapeloom.events import QueuePolicy


class Queue:
    """The batches waiting for one consumer. `types` are the event types it receives; None: all.

    `size` is the limit in events. An empty queue accepts a batch that is larger than the limit.
    """

    def __init__(
        self,
        spec: QueueSpec,
        types: Collection[type[Any]] | None = None,
        name: str = "",
        *,
        has_task: bool = False,
        counters: Counter[str] | None = None,
    ) -> None:
        self.name = name
        self.has_task = has_task  #: emptied by a task of `ConsumerTasks`, not by the user's code
        self.size = spec.size
        self.policy: QueuePolicy = spec.policy
        self.types = frozenset(types) if types is not None else None
        self._has_trades = types is None or Trade in types  # a `TradeBatch` needs no filtering
        #: Returns those of some events that the consumer receives; None: all.
        self.chosen: Callable[[list[Event]], list[Event]] | None = None
        self.count = 0  #: events waiting
        self.received = 0  #: events put, in total
        self.dropped = 0  #: events that this consumer missed
        self.keeps_cursors = False  #: whether cursors of relays are queued behind their events
        self._counters: Counter[str] = Counter() if counters is None else counters
        self._batches: deque[list[Event]] = deque()
        self._lost: dict[tuple[str, str, str], list[int]] = {}  # see `_drop`
        self._not_empty: Notify | None = None
        self._not_full: Notify | None = None
        self._closed = False
        self._error: Exception | None = None
        self._delays: _Delays | None = None

    def state(self, clock: Clock, *, is_sink: bool = False, problem: str = "") -> QueueState:
        """Return what it holds now, from any thread. From the first call on delays are measured."""
        delays = self._delays = self._delays or _Delays(clock)
        return QueueState(
            self.name, self.count, self.size, self.policy, self.received, self.dropped, is_sink,
            problem, tuple(delays.counts), delays.sum,
        )  # fmt: skip

    @property
    def closed(self) -> bool:
        """Whether the queue ignores further events."""
        return self._closed

    def select(self, events: list[Event]) -> list[Event]:
        """Return the events that the consumer receives."""
        types = self.types
        if types is not None and not (self._has_trades and type(events) is TradeBatch):
            events = [event for event in events if type(event) in types]
        return events if self.chosen is None else self.chosen(events)

    def put_nowait(self, events: list[Event], cursor: Cursor | None = None) -> bool:
        """Put a batch according to the policy; return False if it is full and the policy is "block"."""
        events = self.select(events)
        if cursor is not None and self.keeps_cursors:
            events = [*events, cursor]  # type: ignore[list-item]  # it has what the queue reads
        if not events or self._closed:
            return True
        if self.count and self.count + len(events) > self.size:
            if self.policy == "block":
                return False
            if not self._make_room(len(events)):
                return True
        self._batches.append(events)
        self.count += len(events)
        self.received += len(events)
        if self.count > self.size and self.policy == "conflate":
            self._conflate()
        if self._not_empty is not None:
            self._not_empty.notify_all()
        return True

    async def put(self, events: list[Event], cursor: Cursor | None = None) -> None:
        """Put a batch; with the policy "block", wait until there is room."""
        while not self.put_nowait(events, cursor):
            if self._not_full is None:
                self._not_full = new_notify()
            await self._not_full.wait()

    async def get(self) -> list[Event]:
        """Return the next batch, waiting for one; an empty list once the queue is closed and empty.

        Raises the error that ended the stream, after all batches queued before it.
        """
        while not self._batches:
            if self._closed:
                if self._error is not None:
                    raise self._error
                return []
            if self._not_empty is None:
                self._not_empty = new_notify()
            await self._not_empty.wait()
        return self._pop()

    def get_nowait(self) -> list[Event]:
        """Return the next batch, or an empty list if none is waiting."""
        return self._pop() if self._batches else []

    def close(self, error: Exception | None = None) -> None:
        """Ignore further events. Queued batches can still be read; then `get` raises *error*, if any."""
        if not self._closed:
            self._closed = True
            self._error = error
        for notify in (self._not_empty, self._not_full):
            if notify is not None:
                notify.notify_all()

    def _pop(self) -> list[Event]:
        events = self._batches.popleft()
        self.count -= len(events)
        if self._delays is not None:
            self._delays.add(events)
        if self._lost:
            events = [*self._overflow_gaps(events[0]), *events]
        if self._not_full is not None:
            self._not_full.notify_all()
        return events

    def _make_room(self, needed: int) -> bool:
        """Make room for *needed* events; close the queue and return False if the policy is "error"."""
        if self.policy == "error":
            self.close(
                QueueOverflow(
                    "",
                    f"the consumer {self.name!r} fell {self.count} events behind, its limit is"
                    f" {self.size}. Make it faster, its queue larger, or choose another policy.",
                )
            )
            return False
        if self.policy == "drop_oldest":
            while self._batches and self.count + needed > self.size:
                dropped = self._batches.popleft()
                self.count -= len(dropped)
                for event in dropped:
                    self._drop(event)
        return True

    def _conflate(self) -> None:
        """Keep the latest event of each type, venue, symbol, channel and interval; drop the others."""
        latest: dict[tuple[object, ...], Event] = {}
        for batch in self._batches:
            for event in batch:
                interval = getattr(event, "interval", "")
                key = (event.type, event.venue, event.symbol, event.channel, interval)
                older = latest.pop(key, None)
                if older is not None:
                    self._drop(older)
                latest[key] = event
        self._batches = deque([list(latest.values())])
        self.count = len(latest)

    def _drop(self, event: Event | Cursor) -> None:
        """Count a dropped event and extend its entry in `_lost`: events, first and last time."""
        if type(event) is Cursor:
            return
        self.dropped += 1
        self._counters["dropped"] += 1
        lost = self._lost.setdefault(
            (event.venue, event.symbol, event.channel), [0, event.ts, event.ts]
        )
        lost[0] += 1
        # A dropped Gap extends the overflow gap back to where that Gap began.
        lost[1] = min(lost[1], event.since if type(event) is Gap else event.ts)
        lost[2] = max(lost[2], event.ts)

    def _overflow_gaps(self, following: Event) -> list[Event]:
        """Return a Gap for each entry of `_lost`, to be delivered before *following*, and clear it."""
        gaps: list[Event] = [
            Gap(
                venue, symbol, until, following.recv,
                since, until, "overflow", missing, "unrecoverable", channel,
            )
            for (venue, symbol, channel), (missing, since, until) in self._lost.items()
        ]  # fmt: skip
        self._lost = {}
        return gaps


class _Delays:
    """Counts events by how long ago they were read when their consumer takes them.

    The events of one read share the time of it, so that one look at the clock serves a batch.
    """

    def __init__(self, clock: Clock) -> None:
        self.counts = [0] * (len(DELAY_BOUNDS) + 1)
        self.sum = 0  #: in ns
        self._clock = clock

    def add(self, events: list[Event]) -> None:
        """Count a batch. One that ends with a gap or status is left out: its time may be an earlier one."""
        last: Event | Cursor = events[-1]
        if type(last) in OURS or type(last) is Cursor:
            return
        delay = self._clock.time_ns() - last.recv
        self.counts[bisect_left(DELAY_BOUNDS, delay)] += len(events)
        self.sum += delay * len(events)
