"""`Thinning`: leaves out the trades that nobody looks at, where a stream has many.

To keep every trade for the case that somebody looks costs as much as the stream itself. So from some
rate on only the trades of symbols that are looked at are passed on. Of the others the number and the newest
trade are known, as long as somebody looks at the table of all symbols.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import TypeAlias

from tapeloom.events import Event, Trade
from tapeloom.plugin import Feed, TradeBatch

from .windows import SECOND

#: Venue and symbol.
Key: TypeAlias = tuple[str, str]
#: Venue and channel.
VenueChannel: TypeAlias = tuple[str, str]

#: Seconds for which what was looked at counts as looked at.
_LOOK_SECONDS = 10.0
#: Seconds with less than half of the rate after which all trades are passed on again.
_CALM_SECONDS = 10
#: How many numbers are collected, if nobody reads, before they are counted.
_MOST_IDS = 65_536


class Counted:
    """Trades of one venue and channel that were not passed on: by symbol, how many, and the newest."""

    __slots__ = ("last", "numbers")

    def __init__(self) -> None:
        self.numbers: Counter[str] = Counter()
        self.last: dict[str, Event] = {}

    def add(self, symbol: str, number: int, last: Event) -> None:
        """Count so many trades of a symbol."""
        self.numbers[symbol] += number
        before = self.last.get(symbol)
        if before is None or before.recv <= last.recv:
            self.last[symbol] = last


class CountedById:
    """The same of one feed, by the numbers that its batches carry: no trade is read for it.

    The numbers are collected and counted later, since that is done faster with many of them.
    """

    __slots__ = ("_feed", "_ids", "_last", "_numbers")

    def __init__(self, feed: Feed) -> None:
        self._feed = feed  # kept, so that no other one gets its `id`
        self._ids: list[int] = []
        self._numbers: Counter[int] = Counter()
        self._last: dict[int, Event] = {}

    def add(self, trades: TradeBatch) -> None:
        """Count a batch."""
        ids = trades.subscription_ids
        self._last.update(zip(ids, trades, strict=True))
        self._ids += ids
        if len(self._ids) > _MOST_IDS:
            self._numbers.update(self._ids)
            self._ids.clear()

    def add_to(self, counted: Mapping[VenueChannel, Counted]) -> None:
        """Add what was counted, by venue, channel and symbol."""
        self._numbers.update(self._ids)
        for number, trade in self._last.items():
            place = counted[trade.venue, trade.channel]
            place.add(trade.symbol, self._numbers[number], trade)


class Thinning:
    """Decides which trades are passed on. Up to *rate* trades a second, all are.

    `pass_on` runs in the thread of the stream, all else in those of the screens. Times are those of the
    events' `recv` in ns, if nothing else is said.
    """

    def __init__(self, rate: int) -> None:
        self.is_thin = False  #: whether trades are left out now
        self._rate = rate
        self._second = self._trades = self._calm = 0  # trades in this second; calm seconds until it
        # By symbol, until when, in seconds; never changed in place.
        self._looks: Mapping[Key, float] = {}
        self._table_until = 0.0  # in seconds
        self._followed: Mapping[Key, int] = {}  # see `whole_since`; never changed in place
        self._thin_until = 0
        self._counted: dict[VenueChannel, Counted] = defaultdict(Counted)
        self._by_feed: dict[int, CountedById] = {}  # by the `id` of the feed
        self._lock = Lock()  # of both

    # --------------------------------------------------------------------------------- for screens

    def look_at(self, key: Key) -> None:
        """Have the trades of a symbol passed on, for a while."""
        self._looks = {**self._looks, key: time.monotonic() + _LOOK_SECONDS}

    def look_at_table(self) -> None:
        """Have the trades of all symbols counted, for a while."""
        self._table_until = time.monotonic() + _LOOK_SECONDS

    def whole_since(self, key: Key) -> int:
        """Return since when all trades of a symbol are passed on, if they are now."""
        return self._followed.get(key, self._thin_until)

    def pop_counted(self) -> Mapping[VenueChannel, Counted]:
        """Return what was counted since the last call."""
        with self._lock:
            counted, self._counted = self._counted, defaultdict(Counted)
            by_feed, self._by_feed = self._by_feed, {}
        for by_id in by_feed.values():
            by_id.add_to(counted)
        return counted

    # ------------------------------------------------------------------------------- for the stream

    def pass_on(self, events: Sequence[Event]) -> Sequence[Event]:
        """Return those of a batch that are kept; there may be none."""
        recv = events[-1].recv
        if recv // SECOND != self._second:
            self._start_second(recv)
        if type(events) is TradeBatch or set(map(type, events)) == {Trade}:
            self._trades += len(events)
            return self._chosen(events, recv) if self.is_thin else events
        trades = [event for event in events if type(event) is Trade]
        self._trades += len(trades)
        if not self.is_thin or not trades:
            return events
        others = [event for event in events if type(event) is not Trade]
        return [*others, *self._chosen(trades, recv)]

    def _start_second(self, recv: int) -> None:
        """Decide by the trades of the last second, and forget looks that are over."""
        self._calm = 0 if self._trades * 2 > self._rate else self._calm + 1
        if self._trades > self._rate:
            if not self.is_thin:  # what nobody looks at is not whole any more
                self._followed = {key: self.whole_since(key) for key in self._looks}
            self.is_thin = True
        elif self.is_thin and self._calm >= _CALM_SECONDS:
            self.is_thin, self._thin_until = False, recv
        self._second, self._trades = recv // SECOND, 0
        now = time.monotonic()
        if any(until <= now for until in self._looks.values()):
            self._looks = {key: until for key, until in self._looks.items() if until > now}

    def _chosen(self, trades: Sequence[Event], recv: int) -> list[Event]:
        """Return the trades of symbols that are looked at; count the others if the table is looked at."""
        looks = self._looks
        if looks.keys() != self._followed.keys():
            self._followed = {key: self._followed.get(key, recv) for key in looks}
        if len(looks) == 1:
            ((venue, symbol),) = looks
            chosen = [trade for trade in trades if trade.symbol == symbol and trade.venue == venue]
        elif looks:
            chosen = [trade for trade in trades if (trade.venue, trade.symbol) in looks]
        else:
            chosen = []
        if self._table_until > time.monotonic():
            with self._lock:
                self._count(trades, chosen)
        return chosen

    def _count(self, trades: Sequence[Event], chosen: Sequence[Event]) -> None:
        if (
            type(trades) is TradeBatch
            and trades.feed is not None
            and len(trades.subscription_ids) == len(trades)
        ):
            key = id(trades.feed)
            by_id = self._by_feed.get(key)
            if by_id is None:
                by_id = self._by_feed[key] = CountedById(trades.feed)
            by_id.add(trades)
        else:
            for trade in trades:
                self._counted[trade.venue, trade.channel].add(trade.symbol, 1, trade)
        for trade in chosen:
            self._counted[trade.venue, trade.channel].numbers[trade.symbol] -= 1
