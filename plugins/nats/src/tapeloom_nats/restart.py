"""What a reader keeps over a restart, so that it goes on as if it had not been restarted.

It reads the messages of the last seconds again, to have the keys by which it recognises an event that comes
again. All else that it knows may follow from messages of any age. So it is kept, as it was after one message.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TypeAlias

from msgspec import Struct
from tapeloom.events import Event, Gap, Quote, Trade, decode, encode

from .lanes import KnownGap, SlotLane, Subscription
from .recognition import MAX_KEPT, Ids, Keys, order_of

__all__ = ["KeptShard", "KeptSubscription", "Key", "Memory", "Recalled", "keep", "restored"]

Key: TypeAlias = tuple[str, str, str]  #: venue, symbol and channel of a subscription

_ZERO = Decimal(0)


class KeptLane(Struct, frozen=True, array_like=True):
    """What is kept of a `SlotLane`. Events are JSON."""

    slot: int
    is_held: bool
    held_since: int
    gaps: list[str]
    queue: list[str]


class KeptSubscription(Struct, frozen=True, array_like=True):
    """What is kept of a `Subscription`."""

    venue: str
    symbol: str
    channel: str
    last: tuple[int, int | str | None] | None  #: time in ns and, of a trade, id of the last event
    last_at: int
    last_number: int
    last_slot: int
    floor: int | None
    #: The floor after a restart: of what came before the messages that are read again no key is known.
    floor_again: int | None
    ranges: list[tuple[int, int, int]] | None  #: of `Ids`
    heirs: list[int]
    known_gaps: list[KnownGap]
    pinned: int | None
    is_pinned: bool
    lanes: list[KeptLane]


class KeptShard(Struct, frozen=True):
    """What is kept of the copies of a shard."""

    begun_at: int
    spoke: dict[int, int]
    starting: list[int]
    nodes: dict[int, str]
    subscriptions: list[KeptSubscription]


class Memory(Struct, frozen=True):
    """What a reader keeps of all shards."""

    number: int  #: after which message
    first: int  #: from which message on to read again
    #: How much of the server's time had not counted until *first*, and until *number*, in ns.
    skipped: tuple[int, int]
    stale: list[int]  #: the messages since of nodes that had been replaced
    epochs: dict[str, int]  #: by copy: the run whose messages came last
    fences: dict[str, int]  #: by copy: the highest fence
    shards: dict[str, KeptShard]


def keep(key: Key, of: Subscription, since: int) -> KeptSubscription:
    """Return what to keep of a subscription, if what came since *since*, in ns, is read again."""
    last, floor = of.last, of.floor
    again = max(floor or 0, of.seen.floor_since(since)) if type(of.seen) is Keys else floor
    ranges = of.seen.ranges() if type(of.seen) is Ids else None
    if ranges and floor is not None and len(ranges) == MAX_KEPT:
        again = max(floor, ranges[0][0])  # there may have been others before it
    return KeptSubscription(
        *key,
        None if last is None else (last.ts, last.id if type(last) is Trade else None),
        of.last_at, of.last_number, of.last_slot, floor, again, ranges,
        [*of.heirs],
        [*of.known_gaps.values()],
        of.pinned, of.is_pinned,
        [
            KeptLane(
                slot, lane.is_held, lane.held_since, [*map(encode, lane.gaps)],
                [*map(encode, lane.queue)],
            )
            for slot, lane in of.lanes.items()
        ],
    )  # fmt: skip


class Recalled:
    """The keys of the events of one subscription, from the messages that are read again.

    *held* is, by slot, how many of the last events are left out: they had not been passed on when everything
    else was kept. So is an event below *floor* that came too late to be passed on, see `Subscription.lacks`.
    """

    def __init__(
        self, held: Mapping[int, int], floor: int | None, gaps: Sequence[KnownGap]
    ) -> None:
        self.seen = Keys()
        self.lanes: dict[int, SlotLane] = {}
        self._held, self._floor = held, floor or 0
        self._gaps = gaps
        self._last: defaultdict[int, deque[tuple[Event, int]]] = defaultdict(deque)

    def add(self, slot: int, event: Event, at: int) -> None:
        """Add an event without a number, which a slot brought at *at*, in ns."""
        last = self._last[slot]
        last.append((event, at))
        if len(last) <= self._held.get(slot, 0):
            return
        event, at = last.popleft()
        key = self.lanes.setdefault(slot, SlotLane()).key(event)
        order = order_of(event)
        if key not in self.seen and (order >= self._floor or self._was_lacking(event)):
            self.seen.add(key, at, order)

    def _was_lacking(self, event: Event) -> bool:
        """Return whether an event below the floor was passed on: in a gap, or as part of one that is not known."""
        gaps = [gap for gap in self._gaps if gap.touches(event)]
        if not gaps:
            return getattr(event, "origin", "") == "backfill"
        return any(gap.lasts and gap.holds(event) for gap in gaps)


def recalled(kept: KeptSubscription) -> Recalled:
    """Return what takes the events that are read again until a subscription is `restored`."""
    held = {
        lane.slot: sum(type(decode(event)) is not Gap for event in lane.queue)
        for lane in kept.lanes
    }
    return Recalled(held, kept.floor, kept.known_gaps)


def restored(kept: KeptSubscription, again: Recalled) -> Subscription:
    """Return the subscription that was kept, with the keys of what was read again."""
    key = kept.venue, kept.symbol, kept.channel
    found = Subscription(
        last_at=kept.last_at, last_number=kept.last_number, last_slot=kept.last_slot,
        floor=kept.floor_again, heirs=frozenset(kept.heirs), pinned=kept.pinned, is_pinned=kept.is_pinned,
    )  # fmt: skip
    found.gaps_until = max((gap.until for gap in kept.known_gaps if gap.lasts), default=0)
    found.known_gaps = {(Gap.type, *key, gap.since, gap.after_id): gap for gap in kept.known_gaps}
    if kept.last is not None:
        found.last = _placeholder(key, *kept.last)
        found.newest = None if kept.is_pinned else order_of(found.last)
    if kept.ranges is not None:
        found.seen = Ids(kept.ranges)
    elif not kept.is_pinned and kept.last is not None:
        found.seen = again.seen
    for of in kept.lanes:
        lane = found.lanes[of.slot] = again.lanes.get(of.slot) or SlotLane()
        lane.is_held, lane.held_since = of.is_held, of.held_since
        lane.gaps.extend(map(decode, of.gaps))  # type: ignore[arg-type]  # they are gaps
        lane.queue.extend(map(decode, of.queue))
    return found


def _placeholder(key: Key, ts: int, trade_id: int | str | None) -> Event:
    """Return an event of which only the place is known: a trade, or any other that has no id."""
    venue, symbol, channel = key
    if trade_id is None:
        return Quote(venue, symbol, ts, ts, None, None, None, None, None, channel)
    return Trade(venue, symbol, ts, ts, _ZERO, _ZERO, None, trade_id, channel)
