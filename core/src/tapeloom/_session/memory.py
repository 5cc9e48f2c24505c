"""What came last of each subscription, to tell what was missed from what is known."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

from tapeloom.events import Bar, Event, Trade
from tapeloom.feeds import LiveTrades, Subscription

from .times import Times

__all__ = ["Memory"]


class Memory:
    """The last trade and bar of each subscription, the venue's times, and the last events of all.

    A batch is only put aside as it comes. It is looked at when somebody asks, or together with many
    others: a batch of one event would else cost several times what the event does.
    """

    def __init__(self) -> None:
        self._times = Times()
        self._recv = 0
        self._new: list[list[Event]] = []  # batches nobody has looked at
        self._room = _MANY
        self._by_line: dict[int, Event] = {}
        self._last: dict[tuple[str, str], Event] = {}
        self._recent: deque[list[Event]] = deque()
        self._size = 0
        self._unheard = 0  # how many of the recent batches nobody has listened to

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
            if type(events) is LiveTrades:
                self._by_line.update(zip(events.lines, events, strict=False))
                self._times.learn(events[-1:])
            else:
                plain += events
        if plain:
            self._last.update(
                {
                    (event.symbol, event.channel): event
                    for event in plain
                    if type(event) is Trade or type(event) is Bar
                }
            )
            self._times.learn(plain)
        self._recv = new[-1][-1].recv
        self._keep(new)

    def _keep(self, new: Sequence[list[Event]]) -> None:
        recent = self._recent
        recent.extend(new)
        self._size += sum(map(len, new))
        self._unheard += len(new)
        while self._size > _RECENT and len(recent) > 1:
            self._size -= len(recent.popleft())
        self._unheard = min(self._unheard, len(recent))

    @property
    def recv(self) -> int:
        """When the last batch came, 0 where none has."""
        self._learn()
        return self._recv

    @property
    def times(self) -> Times:
        """The venue's times, as of the last batch."""
        self._learn()
        return self._times

    def unheard(self) -> list[list[Event]]:
        """Return what came since this was last asked: the latest of it, where that is much."""
        self._learn()
        if not self._unheard:
            return []
        batches, self._unheard = list(self._recent)[-self._unheard :], 0
        return batches

    def last(self, one: Subscription) -> Event | None:
        """Return the last trade or bar of *one*, None where none has come."""
        return self._settled().get((one.symbol, one.channel))

    def trades(self) -> dict[tuple[str, str], Trade]:
        """Return the last trade of each symbol and channel."""
        last = self._settled()
        return {key: event for key, event in last.items() if type(event) is Trade}

    def _settled(self) -> dict[tuple[str, str], Event]:
        """Return the last trade and bar by symbol and channel, those known by their lines among them."""
        self._learn()
        last = self._last
        for event in self._by_line.values():
            key = event.symbol, event.channel
            # By the venue's clock: ours may have been set between the two.
            if key not in last or event.ts >= last[key].ts:
                last[key] = event
        self._by_line.clear()
        return last

    def known(self, one: Subscription, since: int) -> set[int | str]:
        """Return the ids of the trades of *one* at *since* and later, as far as is remembered."""
        self._learn()
        return {
            event.id
            for events in self._recent
            for event in events
            if type(event) is Trade
            and event.ts >= since
            and event.symbol == one.symbol
            and event.channel == one.channel
        }

    def forget(self, some: Collection[Subscription]) -> None:
        """Remember nothing of these any more."""
        last = self._settled()
        for one in some:
            last.pop((one.symbol, one.channel), None)


#: Events that are remembered one by one, at the least.
_RECENT = 1024
#: So many events are looked at together.
_MANY = 32
