"""Where a sink stands in each subscription, as texts that its store keeps together with the events."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TypeGuard

from attrs import evolve, frozen

from tapeloom._gaps.gap_tracker import GapTracker
from tapeloom._gaps.open_gap import LastStored
from tapeloom.events import OURS, Bar, Event, Gap, Trade, decode, encode
from tapeloom.plugin import Feed, Subscription, TradeBatch

#: Number of trades whose ids are kept where ids are texts: a venue may repeat them after a subscribe.
_RECENT_IDS = 64
#: Number of ids that are kept of an open gap. If more of it have come, it is not filled after a restart.
_MAX_FOUND = 20_000


@frozen
class OpenGapPosition:
    """A gap that was stored without its final state, and what came of it since."""

    gap: Gap
    #: ids of its trades that are stored; of bars their `ts`
    found: frozenset[int | str] = frozenset()

    def holds(self, event: Event, event_id: int | str) -> bool:
        """Return whether *event*, with this id, lies in the gap."""
        gap = self.gap
        if type(event_id) is int and type(gap.after_id) is int:
            before_id = gap.before_id
            return gap.after_id < event_id and not (
                type(before_id) is int and event_id >= before_id
            )
        return gap.since <= event.ts <= gap.until

    def with_events(self, events: Iterable[tuple[Event, int | str]]) -> OpenGapPosition:
        """Return the position after *events*, each with its id."""
        new = {event_id for event, event_id in events if self.holds(event, event_id)}
        if not new or len(self.found) > _MAX_FOUND:
            return self
        return evolve(self, found=self.found | new)


@frozen
class Position:
    """Up to where a sink has the events of one subscription."""

    ts: int  #: the latest of the venue's times, in ns
    last: Trade | Bar | LastStored | None = None  #: the last trade or closed bar
    recent: tuple[str, ...] = ()  #: ids of the last trades where ids are texts
    open: tuple[OpenGapPosition, ...] = ()  #: gaps without a final state

    def after(self, events: Sequence[Event]) -> Position:
        """Return the position after *events* of its subscription."""
        newest, last = events[-1], self.last
        if len(events) > 1 or self.open or type(newest) is not Trade or type(newest.id) is not int:
            return self._after_any(events)
        is_newer = last is None or not _is_older(newest, last)
        return Position(max(self.ts, newest.ts), newest if is_newer else last)

    def _after_any(self, events: Iterable[Event]) -> Position:
        """Return the position after *events* of any types, in any order."""
        ts, last, open_gaps = self.ts, self.last, self.open
        found: list[tuple[Event, int | str]] = []
        for event in events:
            if type(event) is Gap:
                open_gaps = _with_gap(open_gaps, event)
                ts = ts or event.since
            elif type(event) not in OURS:
                ts, event_id = max(ts, event.ts), _id_of(event)
                if event_id != "":
                    found.append((event, event_id))
                    if last is None or not _is_older(event, last):
                        last = event  # type: ignore[assignment]  # only trades and bars have an id
        names = [event_id for _, event_id in found if type(event_id) is str]
        recent = (*self.recent, *names)[-_RECENT_IDS:] if names else self.recent
        return Position(ts, last, recent, tuple(gap.with_events(found) for gap in open_gaps))

    def has(self, event: Event) -> bool:
        """Return whether a backfilled *event* is stored already."""
        event_id, last = _id_of(event), self.last
        if last is None or event_id == "":
            return False
        if inside := [gap for gap in self.open if gap.holds(event, event_id)]:
            return any(event_id in gap.found for gap in inside)
        if type(event_id) is int and type(_id_of(last)) is int:
            return event_id <= _id_of(last)  # type: ignore[operator]
        return event.ts < last.ts or event_id in self.recent

    def to_text(self) -> str:
        """Return it as a text that `parse` reads."""
        last, stored = "", self.last
        if stored is not None:
            event_id = getattr(stored, "id", "")
            event_id = event_id if type(event_id) is int else json.dumps(event_id)
            last = f',"last":[{stored.ts},{stored.recv},{event_id}]'
        if not self.recent and not self.open:
            return f'{{"ts":{self.ts}{last}}}'  # most, so they are not made into objects first
        recent = json.dumps(self.recent)
        gaps = [
            f"[{encode(gap.gap)},{json.dumps(sorted(gap.found, key=str))}]" for gap in self.open
        ]
        return f'{{"ts":{self.ts}{last},"recent":{recent},"open":[{",".join(gaps)}]}}'


_NOTHING = Position(0)


def parse(text: str) -> Position:
    """Return the position that `Position.to_text` wrote. Raises ValueError for any other text."""
    try:
        fields = json.loads(text)
        last = LastStored(*fields["last"]) if "last" in fields else None
        open_gaps = [
            OpenGapPosition(gap, frozenset(found))
            for event, found in fields.get("open", ())
            if type(gap := decode(json.dumps(event))) is Gap
        ]
        times = [fields["ts"], *([last.ts, last.recv] if last is not None else [])]
        if set(map(type, times)) != {int} or type(getattr(last, "id", "")) not in (int, str):
            raise ValueError("a time is no number, or an id is no number or text")
        return Position(fields["ts"], last, tuple(fields.get("recent", ())), tuple(open_gaps))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"expected a position, got {text[:200]!r}: {error!r}") from error


def resume(gaps: GapTracker, subscription: Subscription, position: Position) -> list[Event]:
    """Let a feed continue from a position; return what to emit."""
    unfilled = [(gap.gap, gap.found) for gap in position.open]
    since = position.last.ts if position.last is not None else position.ts
    return gaps.resume(subscription, since, position.last, position.recent, unfilled)


class Positions:
    """The positions of one sink, by venue and subscription."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, str, str], Position] = {}
        #: Those with a gap without a final state.
        self.with_gaps: set[tuple[str, str, str]] = set()

    def restore(self, texts: Mapping[str, str]) -> list[str]:
        """Take over the positions that a store returned, where they are newer than those here.

        Return the keys of those that cannot be read.
        """
        unreadable = []
        for text_key, text in texts.items():
            try:
                venue, symbol, channel = json.loads(text_key)
                self._update_newer((str(venue), str(symbol), str(channel)), parse(text))
            except (ValueError, TypeError):
                unreadable.append(text_key)
        return unreadable

    def merge(self, other: Positions) -> None:
        """Take over the positions of another object where they are newer."""
        for key, position in other._by_key.items():
            self._update_newer(key, position)

    def _update_newer(self, key: tuple[str, str, str], position: Position) -> None:
        if key not in self._by_key or self._by_key[key].ts < position.ts:
            self.update({key: position})

    def copy(self) -> Positions:
        """Return a copy, which later updates do not change."""
        positions = Positions()
        positions.update(self._by_key)
        return positions

    def by_key(self) -> Mapping[tuple[str, str, str], Position]:
        """Return the positions by venue, symbol and channel."""
        return self._by_key

    def of(self, key: tuple[str, str, str]) -> Position:
        """Return the position of a venue, symbol and channel; one without a time if there is none."""
        return self._by_key.get(key, _NOTHING)

    def by_venue(self) -> dict[str, dict[Subscription, Position]]:
        """Return the positions by venue and subscription."""
        found: dict[str, dict[Subscription, Position]] = {}
        for (venue, symbol, channel), position in self._by_key.items():
            found.setdefault(venue, {})[Subscription(symbol, channel)] = position
        return found

    def after(self, events: Iterable[Event]) -> dict[tuple[str, str, str], Position]:
        """Return the positions that change with *events*, without changing them here."""
        latest = Latest(self)
        latest.add(events)
        return latest.positions()

    def update(self, changed: Mapping[tuple[str, str, str], Position]) -> None:
        """Apply what `after` returned."""
        self._by_key.update(changed)
        for key, position in changed.items():
            if position.open:
                self.with_gaps.add(key)
            elif self.with_gaps:
                self.with_gaps.discard(key)

    def has(self, event: Event) -> bool:
        """Return whether a backfilled *event* is stored already."""
        position = self._by_key.get((event.venue, event.symbol, event.channel))
        return position is not None and position.has(event)


def positions_of(
    texts: Mapping[str, str], venue: str, symbols: Iterable[str]
) -> dict[Subscription, Position]:
    """Return the positions of some symbols of a venue, from the texts that a store keeps."""
    positions, chosen = Positions(), {*symbols}
    positions.restore(texts)
    found = positions.by_venue().get(venue, {})
    return {key: position for key, position in found.items() if key.symbol in chosen}


def texts(changed: Mapping[tuple[str, str, str], Position]) -> dict[str, str]:
    """Return positions as a store keeps them."""
    return {_text_key(key): position.to_text() for key, position in changed.items()}


@lru_cache(maxsize=100_000)
def _text_key(key: tuple[str, str, str]) -> str:
    return json.dumps(key)


def is_validated(events: Iterable[Event]) -> TypeGuard[TradeBatch]:
    """Return whether events are trades of which it is known that each one follows the one before."""
    if type(events) is not TradeBatch or not events.validated or events.feed is None:
        return False
    return len(events.subscription_ids) == len(events)  # a stage may have taken some away


#: Types of which an event may count though a later one has come: they have ids, or tell of gaps.
_WITH_IDS = frozenset({Trade, Bar, *OURS})


class Latest:
    """Those of many events that decide the positions: of most subscriptions only the last one."""

    def __init__(self, positions: Positions) -> None:
        self.count = 0  #: number of events that are kept, without those of `_next`
        self._positions = positions
        #: By venue and channel, then by symbol: an event that all before it lead to, or several.
        self._kept: defaultdict[tuple[str, str], dict[str, Event | list[Event]]] = defaultdict(dict)
        self._has_several = False
        #: By the `id` of the feed and subscription id: the last of validated trades. They follow what is kept.
        self._next: dict[int, tuple[Feed | None, dict[int, Trade]]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added."""
        return not self.count and not self._next

    def add(self, events: Iterable[Event]) -> None:
        """Take note of events, in order (hot path)."""
        if is_validated(events) and not self._has_several and not self._positions.with_gaps:
            # The feed is kept, so that no other one gets its `id`.
            _, last = self._next.setdefault(id(events.feed), (events.feed, {}))
            last.update(zip(events.subscription_ids, events, strict=True))
            return
        if self._next:
            following, self._next = self._next, {}
            for _, trades in following.values():
                self._add_any(trades.values())
        self._add_any(events)

    def _add_any(self, events: Iterable[Event]) -> None:
        venue, channel, by_symbol = "", "", self._kept["", ""]
        for event in events:
            if event.channel != channel or event.venue != venue:
                venue, channel = event.venue, event.channel
                by_symbol = self._kept[venue, channel]
            before = by_symbol.get(event.symbol)
            if type(event) is not Trade:
                is_next = type(event) is type(before) and type(event) not in _WITH_IDS
            elif type(before) is Trade and type(event.id) is int and type(before.id) is int:
                is_next = event.id >= before.id
            else:
                is_next = False
            if is_next and event.ts >= before.ts:  # type: ignore[union-attr]  # of the same type
                by_symbol[event.symbol] = event
            else:
                by_symbol[event.symbol] = self._with(before, event)

    def _with(self, before: Event | list[Event] | None, event: Event) -> Event | list[Event]:
        """Return what is kept of a subscription, and *event*. Of one with an open gap all are kept."""
        self.count += 1
        self._has_several = self._has_several or before is not None
        if isinstance(before, list):
            before.append(event)
            return before
        if before is not None:
            return [before, event]
        has_gap = self._positions.of((event.venue, event.symbol, event.channel)).open
        if not has_gap and type(event) is not Gap:
            return event
        self._has_several = True
        return [event]

    def positions(self) -> dict[tuple[str, str, str], Position]:
        """Return the positions that change with the events."""
        changed = {}
        for (venue, channel), by_symbol in self._kept.items():
            for symbol, kept in by_symbol.items():
                key = venue, symbol, channel
                events = kept if isinstance(kept, list) else [kept]
                position = self._positions.of(key).after(events)
                if symbol and channel and position.ts:
                    changed[key] = position
        for _, trades in self._next.values():
            for trade in trades.values():
                key = trade.venue, trade.symbol, trade.channel
                changed[key] = (changed.get(key) or self._positions.of(key)).after([trade])
        return changed


def _id_of(event: Event | LastStored) -> int | str:
    """Return the id of a trade, the time of a closed bar, an empty text for anything else."""
    if type(event) is LastStored:
        return event.ts if event.id == "" else event.id
    if type(event) is Trade:
        return event.id
    return event.ts if type(event) is Bar and event.closed else ""


def _is_older(event: Event, last: Event | LastStored) -> bool:
    """Return whether *event* lies before *last*: by its id where ids are numbers, else by arrival.

    Without numbers, one that fills a gap arrives behind newer ones: it is older if its time is no later.
    """
    if type(event) is Bar or type(last) is Bar:
        return event.ts < last.ts
    event_id, last_id = _id_of(event), _id_of(last)
    if type(event_id) is int and type(last_id) is int:
        return event_id < last_id and event.ts <= last.ts
    return getattr(event, "origin", "live") == "backfill" and event.ts <= last.ts


def _with_gap(gaps: tuple[OpenGapPosition, ...], gap: Gap) -> tuple[OpenGapPosition, ...]:
    """Return open gaps after a report of *gap*, which may be one of them."""
    others = tuple(other for other in gaps if other.gap.identity != gap.identity)
    if gap.state != "open":
        return others
    same = [evolve(other, gap=gap) for other in gaps if other.gap.identity == gap.identity]
    return (*others, *(same or [OpenGapPosition(gap)]))
