"""Counts what the events say that core does not count: by type and channel, ages, gaps, rejects, states.

`add` runs on the event loop, everything else in the thread of a scrape. It reads copies of dicts, which
are made at once; no lock makes the event loop wait.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from operator import attrgetter, countOf
from typing import Any

import attrs
from tapeloom import Bar, Event, Gap, Reject, Status
from tapeloom.events import OURS
from tapeloom.plugin import StreamState, TradeBatch

from .feeds import FeedIndex
from .stalls import Cadence, Key, SilenceWatch

#: The upper bounds in ns, inclusive, of the ages of events.
AGE_BOUNDS = (
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000, 100_000_000, 250_000_000,
    500_000_000, 1_000_000_000, 2_500_000_000, 5_000_000_000, 10_000_000_000, 30_000_000_000, 60_000_000_000,
)  # fmt: skip
#: How many gaps are remembered, so that a repeated report of one is not counted again.
_MAX_GAPS = 10_000
#: How long the names of feeds and their clocks are used before the stream is asked again, in ns.
_REFRESH_NS = 1_000_000_000
_place, _channel = attrgetter("venue", "channel"), attrgetter("channel")
#: How many ages may wait for the offset of the clocks.
_MAX_WAITING = 10_000
#: States of order books; others of a book's subscription say nothing about its levels.
BOOK_STATES = frozenset({"synced", "stale", "crossed"})


@attrs.define
class Ages:
    """A histogram of ages: how long events took from the venue to our read."""

    counts: list[int] = attrs.Factory(lambda: [0] * (len(AGE_BOUNDS) + 1))
    sum: int = 0  #: in ns
    _waiting: list[int] = attrs.Factory(list)

    def add(self, age: int, offset: int | None) -> None:
        """Count *age* as it would be if the venue's clock were not *offset* ahead of ours, in ns.

        As long as the offset is not known, in the first second of a feed, ages wait for it.
        """
        if offset is None:
            self._waiting += [age] if len(self._waiting) < _MAX_WAITING else []
            return
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for earlier in waiting:
                self.add(earlier, offset)
        self.counts[bisect_left(AGE_BOUNDS, age + offset)] += 1
        self.sum += age + offset


@attrs.define
class Series:
    """The events of one type, venue, symbol and channel."""

    feed: str
    cadence: Cadence
    ages: Ages | None  #: those of its venue and channel; None if the events have no age
    count: int = 0
    last: int = 0  #: when the last one was read, in ns


class EventCounts:
    """What is counted of the events of a stream, whose state *state* returns; *symbols*: by symbol."""

    def __init__(self, state: Callable[[], StreamState], *, symbols: bool = False) -> None:
        self.series: dict[tuple[type[Any], str, str, str], Series] = {}
        self.ages: dict[tuple[str, str, str], Ages] = {}  #: by feed, venue and channel
        self.gaps: Counter[tuple[str, str, str, str, str]] = Counter()  #: … cause and state
        self.rejects: Counter[tuple[str, str, str]] = Counter()  #: by feed, venue and rule
        self.statuses: Counter[tuple[str, str, str]] = Counter()  #: by feed, venue and state
        self.books: dict[Key, str] = {}  #: the state of each order book that reported one
        self.refused: dict[Key, str] = {}  #: the reasons of venues that refuse subscriptions
        self.stalls: Counter[Key] = Counter()  #: how often each subscription has stalled
        self._cadences: dict[Key, Cadence] = {}
        self._silence = SilenceWatch()
        self._gap_states: OrderedDict[Hashable, str] = OrderedDict()
        self._state = state
        self._feeds = FeedIndex()
        self._symbols = symbols
        self._may_merge = False
        self._refreshed_at = 0

    # ------------------------------------------------------------------------------ on the event loop

    def add(self, events: Sequence[Event]) -> None:
        """Count a batch.

        Once a second, and while a subscription is silent, events are told apart by symbol, to learn how
        often each subscription has some. Else that is done only where the metrics need it.
        """
        recv = events[-1].recv
        if recv - self._refreshed_at > _REFRESH_NS:
            self._refresh(recv)
        elif self._may_merge and not self._silence and self._add_merged(events):
            return
        groups: dict[tuple[type[Any], str, str, str], list[Event]] = {}
        for event in events:
            key = type(event), event.venue, event.symbol, event.channel
            group = groups.get(key)
            if group is None:
                groups[key] = [event]
            else:
                group.append(event)
        for key, group in groups.items():
            if key[0] in OURS:
                for event in group:
                    self._report(event)
        for key, group in groups.items():
            self._count(key, group)

    def _add_merged(self, events: Sequence[Event]) -> bool:
        """Count market events of all symbols together; return False if they differ in more than that."""
        event = events[0]
        if type(events) is TradeBatch:  # of one venue
            if countOf(map(_channel, events), event.channel) < len(events):
                return False
        else:
            kinds = set(map(type, events))
            if len(kinds) > 1 or not kinds.isdisjoint(OURS):
                return False
            if len(set(map(_place, events))) > 1:
                return False
        key = type(event), event.venue, "", event.channel
        series = self.series.get(key) or self._new_series(key)
        series.count += len(events)
        series.last = events[-1].recv
        if series.ages is not None:
            self._add_age(series, series.ages, event)
        return True

    def _refresh(self, recv: int) -> None:
        self._refreshed_at = recv
        self._feeds = FeedIndex(self._state().feeds)
        self._may_merge = not self._symbols and self._feeds.are_told_by_venue

    def _count(self, key: tuple[type[Any], str, str, str], events: list[Event]) -> None:
        series = self.series.get(key) or self._new_series(key)
        series.count += len(events)
        series.last = events[-1].recv
        if key[0] in OURS:
            return
        if key[1:] in self._silence:
            self._silence.record(key[1:], events)
        if getattr(events[-1], "origin", "live") == "live":
            series.cadence.record(series.last)
        if series.ages is not None:
            self._add_age(series, series.ages, events[0])

    def _add_age(self, series: Series, ages: Ages, event: Any) -> None:
        """Count the age of the oldest event of a group, unless the venue sent no time: then it has ours."""
        if event.origin == "live" and event.ts != event.recv:
            ages.add(event.recv - event.ts, self._feeds.offset(series.feed))

    def _new_series(self, key: tuple[type[Any], str, str, str]) -> Series:
        kind, *place = key
        venue, symbol, channel = place
        feed = self._feeds.name(venue, symbol, channel)
        if symbol and not feed:  # it may have been added a moment ago
            self._refresh(self._refreshed_at)
            feed = self._feeds.name(venue, symbol, channel)
        cadence = self._cadences.setdefault((venue, symbol, channel), Cadence())
        ages = None
        if _has_age(kind):  # type: ignore[arg-type]  # a class is hashable
            ages = self.ages.setdefault((feed, venue, channel), Ages())
        series = self.series[key] = Series(feed, cadence, ages)
        return series

    def _report(self, event: Event) -> None:
        """Count a gap, a reject or a status."""
        feed = self._feeds.name(event.venue, event.symbol, event.channel)
        if type(event) is Gap:
            if self._is_new(event):
                self.gaps[feed, event.venue, event.channel, event.cause, event.state] += 1
            self._silence.report(event)
        elif type(event) is Reject:
            self.rejects[feed, event.venue, event.rule] += 1
        elif type(event) is Status:
            self.statuses[feed, event.venue, event.state] += 1
            self._silence.report(event)
            self._record_state(event)

    def _is_new(self, gap: Gap) -> bool:
        """Return whether a gap is new, or its state differs from the one it was reported with last."""
        states, identity = self._gap_states, (gap.identity, gap.cause)
        is_new = states.get(identity) != gap.state
        states[identity] = gap.state
        states.move_to_end(identity)
        if len(states) > _MAX_GAPS:
            states.popitem(last=False)
        return is_new

    def _record_state(self, status: Status) -> None:
        key = status.venue, status.symbol, status.channel
        if status.state in BOOK_STATES and status.symbol:
            self.books[key] = status.state
        elif status.state == "refused" and status.symbol:
            self.refused[key] = status.detail
        elif status.state in ("subscribed", "live"):
            self.refused.pop(key, None)

    # ------------------------------------------------------------------------------------ for scrapes

    def stalled(self, now: int) -> list[Key]:
        """Return the subscriptions that are stalled at *now*, in ns, and count those that are so anew."""
        stalled, new = self._silence.stalled(self._cadences, now)
        self.stalls.update(new)
        return stalled


@cache
def _has_age(kind: type[Any]) -> bool:
    """Return whether the time from the venue to our read can be told: that of a bar is its start."""
    return kind not in OURS and kind is not Bar and "origin" in attrs.fields_dict(kind)
