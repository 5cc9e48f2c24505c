"""The last trade or bar of each subscription, and which subscriptions were active lately.

Every parsed batch is added here before the stages process it. The gap tracker asks what was last
received, the subscription monitor asks who was active.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from attrs import evolve

from tapeloom.events import OURS, Bar, Event, Trade
from tapeloom.plugin import ClockOffset, Subscription, TradeBatch

#: Origins of past events. A venue sends them after each subscribe, so they do not show activity.
_PAST_ORIGINS = frozenset({"history", "backfill"})
#: Number of trades whose ids are kept where ids are texts.
_RECENT_TRADES = 1024
#: Number of events that are collected before they are processed together.
_MAX_PENDING = 32
#: Number of trades in a batch from which on it is faster to enter them by subscription id.
_LARGE_BATCH = 8
#: Number of large batches that are kept to find the highest id in: trades may come out of order.
_RECENT_BATCHES = 2
#: Number of events in a sample, and how many of those processed together go into it.
_SAMPLE, _SAMPLE_SHARE = 64, 4


class LastSeen:
    """The last trade or bar of each subscription of a feed, the venue's clock offset, and activity.

    A batch is only stored when it is added. It is processed when a method needs it, or together
    with other small batches: for a batch of one event the processing would cost several times what
    the event costs. Few objects are kept, because the garbage collector visits whatever outlives
    its batch.
    """

    def __init__(self) -> None:
        self._clock_offset = ClockOffset()
        self._pending: list[list[Event]] = []  # batches that have not been processed
        self._room = _MAX_PENDING
        self._by_subscription_id: dict[int, Event] = {}  # newer than those in `_last`
        self._last: dict[tuple[str, str], Event] = {}
        self._active: set[tuple[str, str]] = set()
        self._sample: deque[Event] = deque(maxlen=_SAMPLE)
        self._recent_batches: deque[list[Event]] = deque(maxlen=_RECENT_BATCHES)
        self._recent: deque[Trade] = deque(maxlen=_RECENT_TRADES)
        self._newest: list[Event] = []  # the last batch
        self._newest_ids: dict[tuple[str, str], list[int]] | None = None  # of its trades, sorted

    def add(self, events: list[Event]) -> None:
        """Store a batch as the parser returned it. Called for every batch (hot path)."""
        self._pending.append(events)
        self._newest, self._newest_ids = events, None
        self._room -= len(events)
        if self._room < 0:
            self._process_pending()

    def _process_pending(self) -> None:
        if not self._pending:
            return
        pending, self._pending, self._room = self._pending, [], _MAX_PENDING
        mixed: list[Event] = []
        for events in pending:
            if len(events) < _LARGE_BATCH or type(events) is not TradeBatch:
                mixed += events
                continue
            if mixed:
                self._process(mixed)
                mixed = []
            self._by_subscription_id.update(zip(events.subscription_ids, events, strict=False))
            self._clock_offset.update(events[-1:])
            self._sample.append(events[-1])
            self._recent_batches.append(events)
            if type(events[-1].id) is str:
                self._recent.extend(events)
        if mixed:
            self._process(mixed)

    def _process(self, events: list[Event]) -> None:
        """Process events of all types."""
        if self._by_subscription_id:
            self._enter_by_id()  # they came before
        latest: dict[tuple[str, str], Event] = {}
        last = self._last
        for event in events:
            if type(event) in OURS:
                continue
            key = event.symbol, event.channel
            latest[key] = event
            if type(event) is Trade:
                before = last.get(key)
                if before is None or _is_newer(event, before):
                    last[key] = event
                if type(event.id) is str:
                    self._recent.append(event)
            elif type(event) is Bar and (key not in last or event.ts >= last[key].ts):
                last[key] = event
        self._clock_offset.update(latest.values())
        for key, event in latest.items():
            if getattr(event, "origin", "live") not in _PAST_ORIGINS:
                self._active.add(key)
        self._sample.extend(events[-_SAMPLE_SHARE:])

    def _enter_by_id(self) -> None:
        """Enter the trades that are stored by subscription id by symbol and channel."""
        for event in self._by_subscription_id.values():
            key = event.symbol, event.channel
            self._active.add(key)
            before = self._last.get(key)
            if before is None or _is_newer(event, before):
                self._last[key] = event
        self._by_subscription_id.clear()

    def _update(self) -> None:
        self._process_pending()
        self._enter_by_id()

    @property
    def last_recv(self) -> int:
        """Receive time of the last batch in ns, 0 if there was none."""
        return self._newest[-1].recv if self._newest else 0

    @property
    def known_offset(self) -> int | None:
        """How far the venue's clock is ahead of ours at least, in ns, from any thread; None: not known."""
        return self._clock_offset.largest

    @property
    def clock_offset(self) -> ClockOffset:
        """The venue's clock against ours, as of the last batch."""
        self._process_pending()
        return self._clock_offset

    def own_clock_set(self, step: int, now: int, unchecked: int) -> None:
        """Adapt the receive times of the last events to our clock, which was set by *step* and shows *now*.

        It was set within the last *unchecked* of time; all in ns. An event with a receive time in that time
        came afterwards; the times of all others are moved by *step*. The offset of the venue's clock is
        learnt anew.
        """
        self._update()
        self._clock_offset.reset_offsets()
        for key, event in self._last.items():
            if not now - unchecked <= event.recv <= now:  # it came before
                self._last[key] = evolve(event, recv=event.recv + step)  # type: ignore[misc]  # of attrs

    def pop_active(self, subscriptions: Collection[Subscription]) -> set[tuple[str, str]]:
        """Return those of *subscriptions* with a live event since the last call for them."""
        self._update()
        active = self._active.intersection(subscriptions)
        self._active -= active
        return active

    def pop_sample(self) -> list[Event]:
        """Return some of the events that arrived since the last call."""
        self._process_pending()
        sample = list(self._sample)
        self._sample.clear()
        return sample

    def last_event(self, key: tuple[str, str]) -> Event | None:
        """Return the last trade or bar of a (symbol, channel), by arrival; None if there is none."""
        self._update()
        return self._last.get(key)

    def last_events(self) -> dict[tuple[str, str], Event]:
        """Return the last trade or bar of each (symbol, channel).

        Of trades that came out of order shortly before, it is the one with the highest id.
        """
        self._update()
        newest = dict(self._last)
        for event in (event for batch in self._recent_batches for event in batch):
            if type(event) is Trade and type(event.id) is int:
                last = newest.get((event.symbol, event.channel))
                if type(last) is not Trade or type(last.id) is not int:
                    continue
                if last.id < event.id and last.ts <= event.ts:
                    newest[event.symbol, event.channel] = event
        return newest

    def ids_in_last_batch(self, subscription: Subscription) -> list[int]:
        """Return the numeric ids of the trades of *subscription* in the last batch, sorted."""
        if self._newest_ids is None:
            self._newest_ids = {}
            for event in self._newest:
                if type(event) is Trade and type(event.id) is int:
                    key = event.symbol, event.channel
                    self._newest_ids.setdefault(key, []).append(event.id)
            for ids in self._newest_ids.values():
                ids.sort()
        return self._newest_ids.get(subscription, [])

    def trade_ids(self) -> dict[tuple[str, str], set[str]]:
        """Return the text ids of the last trades by (symbol, channel)."""
        self._process_pending()
        found: dict[tuple[str, str], set[str]] = {}
        for trade in self._recent:
            found.setdefault((trade.symbol, trade.channel), set()).add(str(trade.id))
        return found

    def forget(self, subscriptions: Collection[Subscription]) -> None:
        """Remove the last event of these subscriptions."""
        self._update()
        self._recent_batches.clear()
        for subscription in subscriptions:
            self._last.pop((subscription.symbol, subscription.channel), None)


def _is_newer(event: Event, last: Event) -> bool:
    """Return whether a trade lies after the last one: by its id where ids are numbers, else by arrival.

    A lower id with a later time is newer: the venue has begun to number anew.
    """
    if type(event) is not Trade or type(last) is not Trade:
        return True
    if type(event.id) is not int or type(last.id) is not int:
        return True
    return event.id > last.id or event.ts > last.ts
