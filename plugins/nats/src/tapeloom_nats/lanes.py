"""What is known of one subscription while the copies of a shard are merged: of each copy, and over all."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from attrs import define, evolve, field, frozen
from tapeloom.events import Event, Gap, Trade

from .recognition import WINDOW, Order, order_of, order_of_start

__all__ = ["KnownGap", "SlotLane", "Subscription"]

_LONG_AGO = 1  #: as `KnownGap.came_at`: nobody can say when


@define
class SlotLane:
    """One subscription of one slot."""

    is_held: bool = False
    held_since: int = 0  #: since when it is held or, later, has something to hold, in ns
    #: That it reported before what is held; none: it has just begun.
    gaps: list[Gap] = field(factory=list)
    queue: deque[Event] = field(factory=deque)  #: what is held, with the gaps in between
    twins_ts: int = -1  #: the newest time of its events
    twins: dict[Hashable, int] = field(factory=dict)  #: how often each of that time has come

    def key(self, event: Event) -> Hashable:
        """Return the key of an event without a number: equal ones of one time are counted."""
        identity = event.identity
        if type(event) is Trade and event.id != "":
            return identity
        if event.ts > self.twins_ts:
            self.twins_ts = event.ts
            self.twins.clear()
        count = self.twins.get(identity, 0)
        self.twins[identity] = count + 1
        return identity, count

    def first_live(self) -> Event | None:
        """Return the first event that is held and no gap, and that came live."""
        for event in self.queue:
            if type(event) is not Gap and getattr(event, "origin", "live") == "live":
                return event
        return None


@frozen
class KnownGap:
    """A gap that was passed on, or left out because another slot has filled it. Times are in ns."""

    at: int  #: when that was
    since: int
    until: int
    after_id: int | str | None
    before_id: int | str | None
    lasts: bool  #: It was passed on, and no slot has filled it since.
    passed_until: int = 0  #: the time of the last event that was passed on before it was, in ns
    came_at: int = 0  #: when the first event of it was passed on since; 0: none was
    came_of: int = -1  #: the slot that brought it
    #: Whether another slot brought more of it, which could not be told from what had come, and was left out.
    is_cut: bool = False

    def holds(self, event: Event) -> bool:
        """Return whether an event lies between the edges, where there are events that were passed on."""
        low, high = self.after_id, self.before_id
        if type(event) is Trade and type(event.id) is type(low) is type(high) is int:
            return low < event.id < high
        return max(self.since, self.passed_until) < event.ts < self.until

    def touches(self, event: Event) -> bool:
        """Return whether an event lies between the edges or at one."""
        return self.since <= event.ts <= self.until or self.holds(event)

    def takes(self, slot: int, at: int) -> bool:
        """Return whether what a slot brings of it at *at*, in ns, is certainly not what has come of it."""
        return not self.came_at or slot == self.came_of or at - self.came_at < WINDOW

    def ends_after(self, gap: Gap) -> bool:
        """Return whether it ends later than *gap*, which begins with the same event."""
        if type(self.before_id) is type(gap.before_id) is int:
            return gap.before_id < self.before_id
        return gap.until < self.until


def _first_order(item: tuple[int, SlotLane]) -> Order:
    first = item[1].first_live()
    return 0 if first is None else order_of(first)


def known_gap(gap: Gap, at: int, *, lasts: bool) -> KnownGap:
    """Return what is known of a gap since *at*, in ns."""
    return KnownGap(at, gap.since, gap.until, gap.after_id, gap.before_id, lasts)


@define
class Subscription:
    """A venue, symbol and channel, over all slots."""

    lanes: dict[int, SlotLane] = field(factory=dict)
    seen: Any = None  #: `Ids` or `Keys`
    floor: Order | None = None  #: the place of the first event; those before it are not wanted
    newest: Order | None = None  #: the place of the last event that was passed on
    last: Event | None = None  #: that event
    last_at: int = 0
    last_number: int = 0  #: of the message that it was in
    last_slot: int = -1
    heirs: frozenset[int] = frozenset()  #: slots that have what follows: one has ended behind it
    known_gaps: dict[Hashable, KnownGap] = field(factory=dict)  #: by identity, the oldest first
    gaps_until: int = 0  #: the end of the last one of those that last, in ns
    pinned: int | None = None  #: the only slot that is used, where events cannot be recognised
    is_pinned: bool = False

    def by_first(self) -> list[tuple[int, SlotLane]]:
        """Return the lanes by slot; one that holds earlier events than another comes before it."""
        lanes = [*self.lanes.items()]
        return sorted(lanes, key=_first_order) if len(lanes) > 1 else lanes

    def is_behind(self, gap: Gap) -> bool:
        """Return whether nothing was passed on that comes after the begin of a gap."""
        last = self.last
        return last is None or order_of(last) <= order_of_start(gap, last)

    def is_within(self, gap: Gap) -> bool:
        """Return whether nothing was passed on that comes after the end of a gap."""
        return self.last is None or self.last.ts < gap.until or self.is_behind(gap)

    def tell(self, gap: Gap, at: int) -> Gap:
        """Return a gap that is passed on at *at*, in ns. Once it is filled, no other slot tells it again."""
        last, before = self.last, self.known_gaps.get(gap.identity)
        known = before or known_gap(gap, at, lasts=True)
        passed_until, came_at = known.passed_until, known.came_at
        if last is not None and last.ts < gap.until:
            passed_until = max(passed_until, last.ts)
        elif last is not None and type(gap.after_id) is not int:
            is_longer = before is None or before.until < gap.until
            came_at = came_at or (_LONG_AGO if is_longer else 0)  # a part may have come before
        self.known_gaps[gap.identity] = evolve(
            known, at=at, until=gap.until, before_id=gap.before_id, lasts=gap.state != "filled",
            passed_until=passed_until, came_at=came_at,
        )  # fmt: skip
        self.gaps_until = max(self.gaps_until, gap.until)
        return gap

    def suppress(self, gap: Gap, at: int) -> None:
        """Do not pass on a gap, found at *at* in ns to be filled by another slot, when it is told again.

        One that a slot has told before is not filled until a slot says so.
        """
        known = self.known_gaps.get(gap.identity)
        if known is None or not known.lasts:
            self.known_gaps[gap.identity] = known_gap(gap, at, lasts=False)

    def is_suppressed(self, gap: Gap) -> bool:
        """Return whether a gap is not to be passed on.

        One that was filled is told again if it lasts longer by now. Of one that lasts, a slot that was away for
        less says nothing about the rest.
        """
        known = self.known_gaps.get(gap.identity)
        if known is None:
            return False
        if not known.lasts:
            return gap.until <= known.until
        return known.ends_after(gap) or (known.is_cut and gap.state == "filled")

    def lacks(self, event: Event, slot: int, at: int) -> bool:
        """Return whether an event that comes too late to be recognised was certainly not passed on.

        That is so in a gap that lasts, and for what fills a gap of which nothing is known any more. A gap of
        which it is not certain is not passed on as filled from then on.
        """
        is_known = False
        for key, known in self.known_gaps.items():
            if not known.touches(event):
                continue
            is_known = True
            if known.lasts and known.holds(event):
                if known.takes(slot, at):
                    return True
                self.known_gaps[key] = evolve(known, is_cut=True)
        return not is_known and getattr(event, "origin", "") == "backfill"

    def begin(self, slot: int) -> None:
        """Take note that another node has a slot: it does not know what the one before has brought of gaps."""
        for key, known in self.known_gaps.items():
            if known.came_of == slot:
                self.known_gaps[key] = evolve(known, came_of=-1)

    def note(self, event: Event, slot: int, at: int) -> None:
        """Take note that an event before `gaps_until`, which a slot brought at *at*, in ns, is passed on."""
        for key, known in self.known_gaps.items():
            if known.lasts and not known.came_at and known.holds(event):
                self.known_gaps[key] = evolve(known, came_at=at, came_of=slot)

    def common_gap(self, gaps: Sequence[Gap], following: Event, at: int) -> Iterator[Event]:
        """Yield the part of the last of *gaps* that no slot has brought, before *following*."""
        gap, last = gaps[-1], self.last
        if last is None or self.is_behind(gaps[0]):
            yield from [
                self.tell(reported, at) for reported in gaps if not self.is_suppressed(reported)
            ]
            return
        low = last.id if type(last) is Trade else None
        high = following.id if type(following) is Trade else gap.before_id
        missing = None
        for reported in gaps:
            self.suppress(reported, at)
        if type(low) is int and type(high) is int:
            missing = high - low - 1
            if missing <= 0:
                return
        part = evolve(
            gap, since=last.ts, until=max(last.ts, following.ts), ts=max(last.ts, following.ts),
            after_id=low, before_id=high, missing=missing, state="unrecoverable",
        )  # fmt: skip
        yield self.tell(part, at)

    def forget_gaps(self, before: int) -> None:
        """Forget the gaps that were passed on or left out before that time, in ns."""
        while self.known_gaps:
            oldest = next(iter(self.known_gaps))
            if self.known_gaps[oldest].at >= before:
                break
            del self.known_gaps[oldest]
