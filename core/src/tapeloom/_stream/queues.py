"""Bounded queues of batches, one for each consumer, each with a policy.

What does not fit is never lost in silence: it is counted, and a `Gap` with the cause "overflow" tells
that consumer, ahead of the next batch, how much of which channel it missed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from tapeloom._runtime.event_loop import Notify, bell
from tapeloom.errors import QueueOverflow
from tapeloom.events import Event, Gap, Trade
from tapeloom.plugin import TradeBatch

if TYPE_CHECKING:
    from tapeloom._config import QueueSpec
    from tapeloom.events import QueuePolicy


class Queue:
    """Batches on their way to one consumer. `types` are those it wants; None: all.

    `size` counts events. A batch larger than the whole queue is taken when the queue is empty.
    """

    def __init__(
        self,
        spec: QueueSpec,
        types: Collection[type[Any]] | None = None,
        name: str = "",
        *,
        pumped: bool = False,
        counters: Counter[str] | None = None,
    ) -> None:
        self.name = name
        self.pumped = pumped  #: emptied by a task of ours, not by the user's code
        self.size = spec.size
        self.policy: QueuePolicy = spec.policy
        self.types = frozenset(types) if types is not None else None
        self._trades = types is None or Trade in types  # a batch of nothing else is taken whole
        self.count = 0  #: events waiting
        self.taken = 0  #: events that came in
        self.dropped = 0  #: events that this consumer lost
        self._counters: Counter[str] = Counter() if counters is None else counters
        self._batches: deque[list[Event]] = deque()
        self._lost: dict[tuple[str, str, str], list[int]] = {}
        self._more: Notify | None = None
        self._less: Notify | None = None
        self._closed = False
        self._error: Exception | None = None

    @property
    def closed(self) -> bool:
        """Nothing more comes in."""
        return self._closed

    def wanted(self, events: list[Event]) -> list[Event]:
        """Return those of *events* that are of the types wanted."""
        types = self.types
        if types is None or (self._trades and type(events) is TradeBatch):
            return events
        if len(events) == 1:
            return events if type(events[0]) in types else []
        return [event for event in events if type(event) in types]

    def offer(self, events: list[Event]) -> bool:
        """Take a batch, by the policy. False: it is full, and whoever offers must wait."""
        events = self.wanted(events)
        if not events or self._closed:
            return True
        if self.count and self.count + len(events) > self.size:
            if self.policy == "block":
                return False
            if not self._make_room(len(events)):
                return True
        self._batches.append(events)
        self.count += len(events)
        self.taken += len(events)
        if self.count > self.size and self.policy == "conflate":
            self._conflate()
        if self._more is not None:
            self._more.ring()
        return True

    async def put(self, events: list[Event]) -> None:
        """Take a batch, and wait for room as long as the policy is to block."""
        while not self.offer(events):
            if self._less is None:
                self._less = bell()
            await self._less.wait()

    async def get(self) -> list[Event]:
        """Return the next batch, waiting for one; an empty one when nothing more will come.

        Raises what ended the stream, once all that was queued before it has been taken.
        """
        while not self._batches:
            if self._closed:
                if self._error is not None:
                    raise self._error
                return []
            if self._more is None:
                self._more = bell()
            await self._more.wait()
        return self._pop()

    def get_nowait(self) -> list[Event]:
        """Return the next batch, or an empty one where none is waiting."""
        return self._pop() if self._batches else []

    def close(self, error: Exception | None = None) -> None:
        """Take nothing more. What is queued can still be had; then `get` raises *error*, if any."""
        if not self._closed:
            self._closed = True
            self._error = error
        for waiting in (self._more, self._less):
            if waiting is not None:
                waiting.ring()

    def _pop(self) -> list[Event]:
        events = self._batches.popleft()
        self.count -= len(events)
        if self._lost:
            events = [*self._announce(events[0]), *events]
        if self._less is not None:
            self._less.ring()
        return events

    def _make_room(self, wanted: int) -> bool:
        """Make room by the policy; False where the policy is to end the consumer."""
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
            while self._batches and self.count + wanted > self.size:
                dropped = self._batches.popleft()
                self.count -= len(dropped)
                for event in dropped:
                    self._lose(event)
        return True

    def _conflate(self) -> None:
        """Keep the latest event of each kind, symbol and channel."""
        latest: dict[tuple[object, ...], Event] = {}
        for batch in self._batches:
            for event in batch:
                key = (event.type, event.venue, event.symbol, event.channel)
                older = latest.pop(key, None)
                if older is not None:
                    self._lose(older)
                latest[key] = event
        self._batches = deque([list(latest.values())])
        self.count = len(latest)

    def _lose(self, event: Event) -> None:
        self.dropped += 1
        self._counters["dropped"] += 1
        lost = self._lost.setdefault(
            (event.venue, event.symbol, event.channel), [0, event.ts, event.ts]
        )
        lost[0] += 1
        # The hole that a lost Gap told of is part of what this consumer does not know.
        lost[1] = min(lost[1], event.since if type(event) is Gap else event.ts)
        lost[2] = max(lost[2], event.ts)

    def _announce(self, before: Event) -> list[Event]:
        gaps: list[Event] = [
            Gap(
                venue,
                symbol,
                until,
                before.recv,
                since,
                until,
                "overflow",
                missing,
                "unrecoverable",
                channel,
            )
            for (venue, symbol, channel), (missing, since, until) in self._lost.items()
        ]
        self._lost = {}
        return gaps
