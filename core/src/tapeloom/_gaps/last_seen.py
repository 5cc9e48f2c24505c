"""What came last of each subscription, to tell what was missed from what is known."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from weakref import WeakSet

from tapeloom.events import OURS, Bar, Event, Trade
from tapeloom.plugin import ClockOffset, Subscription, TradeBatch


class LastSeen:
    """The last trade and bar of each subscription, the venue's times, and who has spoken of late.

    A batch is only put aside as it comes. It is looked at when somebody asks, or together with some
    others: a batch of one event would else cost several times what the event does. And little is
    held on to, for whatever outlives its batch is looked through by the garbage collector.
    """

    def __init__(self) -> None:
        self._times = ClockOffset()
        self._recv = 0
        self._new: list[list[Event]] = []  # batches nobody has looked at
        self._room = _MANY
        self._by_line: dict[int, Event] = {}
        self._last: dict[tuple[str, str], Event] = {}
        self._spoke: set[tuple[str, str]] = set()
        self._sample: deque[Event] = deque(maxlen=_SAMPLE)
        self._recent: deque[Trade] = deque(maxlen=_RECENT)
        self._asking: WeakSet[Asking] = WeakSet()

    def note(self, events: list[Event]) -> None:
        """Remember a batch, as the parser gave it: the hot path."""
        self._new.append(events)
        self._room -= len(events)
        if self._room < 0:
            self._learn()

    def _learn(self) -> None:
        """Look at what is new."""
        if not self._new:
            return
        new, self._new, self._room = self._new, [], _MANY
        plain: list[Event] = []
        for events in new:
            if len(events) >= _LONG and type(events) is TradeBatch:
                self._by_line.update(zip(events.subscription_ids, events, strict=False))
                self._times.learn(events[-1:])
                self._sample.append(events[-1])
                self._keep(events)
            else:
                plain += events
        if plain:
            self._look(plain)
        self._recv = new[-1][-1].recv

    def _look(self, events: list[Event]) -> None:
        """Look at events of all kinds."""
        latest = {
            (event.symbol, event.channel): event for event in events if type(event) not in OURS
        }
        self._times.learn(latest.values())
        for key, event in latest.items():
            if type(event) is Trade or type(event) is Bar:
                self._last[key] = event
            if getattr(event, "origin", "live") not in _PAST:
                self._spoke.add(key)
        self._sample.extend(events[-_LATEST:])
        self._keep([event for event in events if type(event) is Trade])

    def _keep(self, trades: list[Trade]) -> None:
        """Hold on to trades where their ids may be asked for.

        Of those that are numbered the last one tells all, but where a hole is being filled.
        """
        if trades and (type(trades[-1].id) is str or self._asking):
            self._recent.extend(trades)

    @property
    def recv(self) -> int:
        """When the last batch came, 0 where none has."""
        self._learn()
        return self._recv

    @property
    def times(self) -> ClockOffset:
        """The venue's times, as of the last batch."""
        self._learn()
        return self._times

    def spoke(self) -> set[tuple[str, str]]:
        """Return the symbols and channels of which something live came since this was last asked."""
        self._settle()
        spoke, self._spoke = self._spoke, set()
        return spoke

    def sample(self) -> list[Event]:
        """Return some of what came since this was last asked."""
        self._learn()
        sample = list(self._sample)
        self._sample.clear()
        return sample

    def last(self, one: Subscription) -> Event | None:
        """Return the last trade or bar of *one*, None where none has come."""
        self._settle()
        return self._last.get((one.symbol, one.channel))

    def trades(self) -> dict[tuple[str, str], Trade]:
        """Return the last trade of each symbol and channel."""
        self._settle()
        return {key: event for key, event in self._last.items() if type(event) is Trade}

    def _settle(self) -> None:
        """Enter by symbol and channel what is known by its line."""
        self._learn()
        last = self._last
        for event in self._by_line.values():
            key = event.symbol, event.channel
            self._spoke.add(key)
            # By the venue's clock: ours may have been set between the two.
            if key not in last or event.ts >= last[key].ts:
                last[key] = event
        self._by_line.clear()

    def ask(self, one: Subscription, since: int) -> Asking:
        """Return who tells which trades of *one* are known, at *since* and later, from now on as well."""
        asking = Asking(self, one, since)
        self._asking.add(asking)
        return asking

    def known(self, one: Subscription, since: int) -> set[int | str]:
        """Return the ids of the trades of *one* at *since* and later, as far as is remembered."""
        self._learn()
        return {
            trade.id
            for trade in self._recent
            if trade.ts >= since and trade.symbol == one.symbol and trade.channel == one.channel
        }

    def forget(self, some: Collection[Subscription]) -> None:
        """Remember nothing of these any more."""
        self._settle()
        for one in some:
            self._last.pop((one.symbol, one.channel), None)


class Asking:
    """Tells the ids of trades that are known on both sides of a hole; they are kept while it lives."""

    def __init__(self, memory: LastSeen, one: Subscription, since: int) -> None:
        self._memory = memory
        self._one = one
        self._since = since

    def __call__(self) -> set[int | str]:
        """Return the ids that are known by now."""
        return self._memory.known(self._one, self._since)


#: What is told of the past when a subscription begins is no sign of its life.
_PAST = frozenset({"history", "backfill"})
#: So many trades are remembered one by one, where that is needed.
_RECENT = 1024
#: So many events are looked at together.
_MANY = 32
#: From so many trades on, entering them by their lines pays.
_LONG = 8
#: So many events are a sample, and so many of those that are looked at together are in it.
_SAMPLE, _LATEST = 64, 4
