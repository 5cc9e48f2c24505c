"""The last trade or bar of each subscription, and which subscriptions were active lately.

Every parsed batch is added here before the stages process it. The gap tracker asks what was last
received, the subscription monitor asks who was active.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from weakref import WeakSet

from tapeloom.events import OURS, Bar, Event, Trade
from tapeloom.plugin import ClockOffset, Subscription, TradeBatch

#: Origins of past events. A venue sends them after each subscribe, so they do not show activity.
_PAST_ORIGINS = frozenset({"history", "backfill"})
#: Number of trades whose ids are kept where they may be needed.
_RECENT_TRADES = 1024
#: Number of events that are collected before they are processed together.
_MAX_PENDING = 32
#: Number of trades in a batch from which on it is faster to enter them by subscription id.
_LARGE_BATCH = 8
#: Number of events in a sample, and how many of those processed together go into it.
_SAMPLE, _SAMPLE_SHARE = 64, 4


class LastSeen:
    """The last trade and bar of each subscription, the venue's clock offset, and recent activity.

    A batch is only stored when it is added. It is processed when a method needs it, or together
    with other small batches: for a batch of one event the processing would cost several times what
    the event costs. Few objects are kept, because the garbage collector visits whatever outlives
    its batch.
    """

    def __init__(self) -> None:
        self._clock_offset = ClockOffset()
        self._last_recv = 0
        self._pending: list[list[Event]] = []  # batches that have not been processed
        self._room = _MAX_PENDING
        self._by_subscription_id: dict[int, Event] = {}
        self._last: dict[tuple[str, str], Event] = {}
        self._active: set[tuple[str, str]] = set()
        self._sample: deque[Event] = deque(maxlen=_SAMPLE)
        self._recent: deque[Trade] = deque(maxlen=_RECENT_TRADES)
        self._watches: WeakSet[TradeIdWatch] = WeakSet()

    def add(self, events: list[Event]) -> None:
        """Store a batch as the parser returned it. Called for every batch (hot path)."""
        self._pending.append(events)
        self._room -= len(events)
        if self._room < 0:
            self._process_pending()

    def _process_pending(self) -> None:
        if not self._pending:
            return
        pending, self._pending, self._room = self._pending, [], _MAX_PENDING
        mixed: list[Event] = []
        for events in pending:
            if len(events) >= _LARGE_BATCH and type(events) is TradeBatch:
                self._by_subscription_id.update(zip(events.subscription_ids, events, strict=False))
                self._clock_offset.update(events[-1:])
                self._sample.append(events[-1])
                self._keep(events)
            else:
                mixed += events
        if mixed:
            self._process(mixed)
        self._last_recv = pending[-1][-1].recv

    def _process(self, events: list[Event]) -> None:
        """Process events of all types."""
        latest = {
            (event.symbol, event.channel): event for event in events if type(event) not in OURS
        }
        self._clock_offset.update(latest.values())
        for key, event in latest.items():
            if type(event) is Trade or type(event) is Bar:
                self._last[key] = event
            if getattr(event, "origin", "live") not in _PAST_ORIGINS:
                self._active.add(key)
        self._sample.extend(events[-_SAMPLE_SHARE:])
        self._keep([event for event in events if type(event) is Trade])

    def _keep(self, trades: list[Trade]) -> None:
        """Keep trades whose ids may be needed to remove duplicates from a backfill.

        Where ids are numbers, the last one suffices, except while a gap is being filled.
        """
        if trades and (type(trades[-1].id) is str or self._watches):
            self._recent.extend(trades)

    @property
    def last_recv(self) -> int:
        """Receive time of the last batch in ns, 0 if there was none."""
        self._process_pending()
        return self._last_recv

    @property
    def clock_offset(self) -> ClockOffset:
        """The venue's clock against ours, as of the last batch."""
        self._process_pending()
        return self._clock_offset

    def pop_active(self) -> set[tuple[str, str]]:
        """Return each (symbol, channel) with a live event since the last call."""
        self._merge_by_id()
        active, self._active = self._active, set()
        return active

    def pop_sample(self) -> list[Event]:
        """Return some of the events that arrived since the last call."""
        self._process_pending()
        sample = list(self._sample)
        self._sample.clear()
        return sample

    def last_event(self, subscription: Subscription) -> Event | None:
        """Return the last trade or bar of *subscription*, None if there was none."""
        self._merge_by_id()
        return self._last.get((subscription.symbol, subscription.channel))

    def last_trades(self) -> dict[tuple[str, str], Trade]:
        """Return the last trade of each (symbol, channel)."""
        self._merge_by_id()
        return {key: event for key, event in self._last.items() if type(event) is Trade}

    def _merge_by_id(self) -> None:
        """Enter the trades that are stored by subscription id by symbol and channel."""
        self._process_pending()
        last = self._last
        for event in self._by_subscription_id.values():
            key = event.symbol, event.channel
            self._active.add(key)
            # Compared by the venue's clock: ours may have been set between the two events.
            if key not in last or event.ts >= last[key].ts:
                last[key] = event
        self._by_subscription_id.clear()

    def watch_trade_ids(self, subscription: Subscription, since: int) -> TradeIdWatch:
        """Keep the ids of the trades of *subscription* while the returned object is referenced.

        It returns the ids of trades with a `ts` of at least *since* in ns, later arrivals included.
        """
        watch = TradeIdWatch(self, subscription, since)
        self._watches.add(watch)
        return watch

    def trade_ids(self, subscription: Subscription, since: int) -> set[int | str]:
        """Return the ids of the kept trades of *subscription* whose `ts` is *since* or later."""
        self._process_pending()
        key = subscription.symbol, subscription.channel
        return {
            trade.id
            for trade in self._recent
            if trade.ts >= since and (trade.symbol, trade.channel) == key
        }

    def forget(self, subscriptions: Collection[Subscription]) -> None:
        """Remove the last event of these subscriptions."""
        self._merge_by_id()
        for subscription in subscriptions:
            self._last.pop((subscription.symbol, subscription.channel), None)


class TradeIdWatch:
    """Returns the trade ids received around a gap; they are kept while it is referenced."""

    def __init__(self, last_seen: LastSeen, subscription: Subscription, since: int) -> None:
        self._last_seen = last_seen
        self._subscription = subscription
        self._since = since

    def __call__(self) -> set[int | str]:
        """Return the ids received so far."""
        return self._last_seen.trade_ids(self._subscription, self._since)
