"""Merges the copies of a shard that several nodes publish: the union of their events, in order.

A function of the order of the messages in the stream: no clock, no chance. Times are the server's times of the
messages, in ns, less most of each pause in which the whole stream took nothing. Events are recognised by the
venue's key, because each node cuts its reads and numbers its events in its own way.

One subscription of one copy (a *slot*) is a *lane*. While a lane has no hole, its new events are passed on
at once, and those that another copy brought before are dropped. Behind a hole it is held until another copy
has passed the hole: then nothing is missing, and the order is kept. What no copy has is reported as a `Gap`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

from attrs import evolve
from tapeloom.events import OURS, Event, Gap, Reject, Status, Trade

from .comparison import Lead, Unconfirmed, conflict
from .lanes import SlotLane, Subscription
from .recognition import (
    WINDOW,
    Ids,
    Keys,
    Order,
    gap_between,
    gaps_after_takeover,
    is_recognisable,
    order_of,
)
from .restart import KeptShard, Key, Recalled, keep, recalled, restored

__all__ = ["ACQUIRED", "HOLD", "Replicas"]

#: The state of the Status behind which the node of a slot publishes all that comes.
ACQUIRED = "acquired"

#: In ns. A lane is held behind a hole for so long at most; a copy without a message for so long is dead.
HOLD = 3_000_000_000
#: In ns. The distance of the marks from which on the stream is read again after a restart.
_MARK = 1_000_000_000


class Replicas:
    """The copies of one shard."""

    def __init__(
        self, count: Callable[[str, int], None] = lambda name, count: None, shard: str = ""
    ) -> None:
        self.expected = 1  #: how many slots there are to be
        self.lead = Lead(shard, count)
        self._count = count
        self._unconfirmed = Unconfirmed()
        self._is_compared = False  #: whether another slot lives than that of the current message
        self._begun_at = self._number = 0  # the time of the first message, the number of the newest
        #: By slot that has not ended: the time of its last message.
        self._spoke: dict[int, int] = {}
        self._starting: set[int] = set()  # their node has begun, and may have missed something
        self._subscriptions: dict[Key, Subscription] = {}
        self._held: dict[tuple[int, int], tuple[Subscription, int]] = {}
        self._marks: deque[tuple[int, int]] = deque()  # time and number of a message
        self._kept: KeptShard | None = None  # what is to be restored
        self._recalled: dict[Key, Recalled] = {}

    @property
    def oldest(self) -> int | None:
        """The number of the message from which on to read again for the same state."""
        return self._marks[0][1] if self._marks else None

    @property
    def held(self) -> int:
        """How many events are held."""
        return sum(len(of.lanes[slot].queue) for of, slot in self._held.values())

    # ----------------------------------------------------------------------------- what is remembered

    def keep(self) -> KeptShard:
        """Return what a reader keeps over a restart, as of the newest message."""
        since = self._marks[0][0] if self._marks else 0
        subscriptions = [keep(key, of, since) for key, of in self._subscriptions.items()]
        nodes = dict(self.lead.nodes)
        return KeptShard(self._begun_at, {**self._spoke}, [*self._starting], nodes, subscriptions)

    def remember(self, kept: KeptShard) -> None:
        """Go on from what was kept, once `recall` has got the messages until then."""
        self._kept = kept
        self._recalled = {
            (of.venue, of.symbol, of.channel): recalled(of) for of in kept.subscriptions
        }

    def recall(self, slot: int, events: Sequence[Event], number: int, at: int) -> None:
        """Take note of what a slot brought in a message before that of which everything else is kept."""
        self._mark(number, at)
        for event in events:
            if type(event) in OURS or (type(event) is Trade and type(event.id) is int):
                continue
            again = self._recalled.get((event.venue, event.symbol, event.channel))
            if again is not None:
                again.add(slot, event, at)

    def restore(self) -> None:
        """Take over what was kept: from now on the messages are new."""
        kept, self._kept = self._kept, None
        if kept is None:
            return
        self._begun_at, self._spoke = kept.begun_at, dict(kept.spoke)
        self._starting, self.lead.nodes = {*kept.starting}, dict(kept.nodes)
        for (key, again), of in zip(self._recalled.items(), kept.subscriptions, strict=True):
            found = self._subscriptions[key] = restored(of, again)
            held = [slot for slot, lane in found.lanes.items() if lane.is_held]
            self._held.update({(id(found), slot): (found, slot) for slot in held})
        self._recalled.clear()

    # --------------------------------------------------------------------------------- what arrives

    def begin(self, slot: int, number: int, at: int, *, begun: bool = False) -> list[Event]:
        """Another node, or another run of it, sends this slot from now on.

        *begun* tells that it begins only now; otherwise this is the first message of it that is read.
        """
        has_died = slot in self._spoke  # the one before has not ended
        out = self._advance(slot, number, at)
        if begun:
            self._starting.add(slot)
        for subscription in self._subscriptions.values():
            subscription.begin(slot)
            if subscription.heirs:
                subscription.heirs = frozenset() if has_died else subscription.heirs - {slot}
            lane = subscription.lanes.get(slot)
            if lane is None:
                continue
            while lane.is_held and lane.queue:
                out += self._release(subscription, slot, at, is_covered=False)
            if subscription.pinned == slot:
                subscription.pinned = None
            self._hold(subscription, slot, at)
        return out

    def end(self, slot: int, number: int, at: int) -> list[Event]:
        """Take note that nothing more comes of this slot: another slot has all that follows."""
        out = self._advance(slot, number, at)
        del self._spoke[slot]
        heirs = frozenset(self._spoke) - self._starting
        for subscription in self._subscriptions.values():
            lane = subscription.lanes.get(slot)
            while lane is not None and lane.is_held and lane.queue:
                out += self._release(subscription, slot, at, is_covered=False)
            # One that has not found its place has nothing to hand over, such as the successor of a
            # dead node that has not received anything yet.
            if slot in subscription.heirs or (lane is not None and not lane.is_held):
                subscription.heirs = heirs
            if lane is not None:
                self._held.pop((id(subscription), slot), None)
                del subscription.lanes[slot]
            if subscription.pinned == slot:
                subscription.pinned = None
        return out + self._try_all(at)

    def add(self, slot: int, events: Sequence[Event], number: int, at: int) -> list[Event]:
        """Return what to pass on when a slot brings these events, in message *number*, at *at* in ns."""
        out = self._advance(slot, number, at)
        subscriptions = self._subscriptions
        if (is_compared := bool(self._others(slot, at))) and events:
            out += self.lead.report(events[-1], at)
        self._is_compared = is_compared
        for event in events:
            key = event.venue, event.symbol, event.channel
            subscription = subscriptions.get(key)
            kind = type(event)
            if kind is Status and getattr(event, "state", "") == ACQUIRED:
                self._starting.discard(slot)
            if subscription is None:
                if not event.symbol or kind is Status or kind is Reject:
                    out += self._about_all(slot, event, at)
                    continue
                subscription = subscriptions[key] = Subscription()
            lane = subscription.lanes.get(slot)
            if lane is None:
                lane = subscription.lanes[slot] = SlotLane()
                if subscription.last is not None:
                    self._hold(subscription, slot, at)
            if kind is Gap:
                self._gap(subscription, slot, event, at, out)  # type: ignore[arg-type]
            elif kind is Status or kind is Reject:
                out.append(event)
            elif lane.is_held and not subscription.is_pinned:
                self._queue(lane, event, at)
                out += self._settle(subscription, at)
            else:
                self._pass(subscription, slot, lane, event, at, out)
        return out

    def _advance(self, slot: int, number: int, at: int) -> list[Event]:
        """Take note of the time; return what was held for too long."""
        self._begun_at, self._number = self._begun_at or at, number
        self._spoke[slot] = at
        self._unconfirmed.advance(at)
        self._mark(number, at)
        return self._try_all(at) if self._held else []

    def _mark(self, number: int, at: int) -> None:
        """Take note of from where on to read again."""
        marks = self._marks
        if not marks or at >= marks[-1][0] + _MARK:
            marks.append((at, number))
            while len(marks) > 1 and marks[1][0] <= at - WINDOW:
                marks.popleft()

    def _about_all(self, slot: int, event: Event, at: int) -> list[Event]:
        """Take an event about a node's whole feed: a gap concerns each subscription of the venue."""
        out: list[Event] = []
        if type(event) is not Gap:
            return [event]
        for (venue, symbol, channel), subscription in self._subscriptions.items():
            is_meant = venue == event.venue and event.channel in ("", channel)
            if is_meant and slot in subscription.lanes:
                of_one = evolve(event, symbol=symbol, channel=channel)
                self._gap(subscription, slot, of_one, at, out)
        return out

    # ------------------------------------------------------------------------------------- passing

    def _pass(
        self,
        subscription: Subscription,
        slot: int,
        lane: SlotLane,
        event: Event,
        at: int,
        out: list[Event],
    ) -> None:
        """Pass on an event of a lane that is not held, unless it was."""
        if subscription.is_pinned or not is_recognisable(event):
            self._pass_pinned(subscription, slot, event, at, out)
            return
        order = order_of(event)
        key: Any = order
        seen = subscription.seen
        if type(event) is not Trade or type(event.id) is not int:
            if seen is None:
                seen = subscription.seen = Keys()
            key = lane.key(event)
        elif seen is None:
            seen = subscription.seen = Ids()
        elif type(seen) is not Ids:
            key = event.identity
        if key in seen:
            out += self._repeated(subscription, slot, event, key, at)
        elif (
            subscription.floor is not None
            and order < subscription.floor
            and not subscription.lacks(event, slot, at)
        ):
            self._count("replica_late", 1)
        else:
            if type(seen) is Keys:
                seen.add(key, at, order)
            else:
                seen.add(key, at)
            if subscription.floor is not None and seen.floor > subscription.floor:
                subscription.floor = seen.floor
            if self._is_compared:
                self._unconfirmed.add((id(subscription), key), event)
            if event.ts < subscription.gaps_until:
                subscription.note(event, slot, at)
            if subscription.newest is not None and order < subscription.newest:
                event = self._late(event)
            else:
                subscription.newest, subscription.last = order, event
                subscription.last_at, subscription.last_slot = at, slot
                subscription.last_number = self._number
                subscription.heirs = frozenset()
            out.append(event)
            if subscription.floor is None:
                subscription.floor = order
        if self._held and len(subscription.lanes) > 1:
            out += self._settle(subscription, at)

    def _late(self, event: Event) -> Event:
        """Return a trade as one that fills a gap: it was held back for longer than the others waited."""
        if type(event) is not Trade or event.origin != "live":
            return event
        self._count("replica_late", 1)
        return evolve(event, origin="backfill")

    def _repeated(
        self, subscription: Subscription, slot: int, event: Event, key: Hashable, at: int
    ) -> Iterator[Event]:
        """Take note which slot was first, where it is known; yield a reject if the copies differ."""
        self._count("replica_repeats", 1)
        if event == subscription.last or subscription.newest == order_of(event):
            first = subscription.last_slot
            if first != slot:
                self.lead.add(first, at - subscription.last_at)
        before = self._unconfirmed.get((id(subscription), key), is_last=self.expected <= 2)
        if before is not None and (reject := conflict(before, event)) is not None:
            self._count("replica_conflicts", 1)
            yield reject

    def _pass_pinned(
        self, subscription: Subscription, slot: int, event: Event, at: int, out: list[Event]
    ) -> None:
        """Pass on an event that cannot be recognised: of one slot only, as long as that lives."""
        subscription.is_pinned = True
        pinned = subscription.pinned
        if pinned is not None and pinned != slot:
            if self._spoke.get(pinned, 0) > at - HOLD:
                return
            pinned = None
        if pinned is None:
            last = subscription.last
            if last is not None and subscription.last_slot != slot:
                out.append(gap_between(last, event, "disconnect"))
            subscription.pinned = slot
        subscription.last, subscription.last_slot = event, slot
        out.append(event)

    # ------------------------------------------------------------------------------------- holding

    def _gap(
        self, subscription: Subscription, slot: int, gap: Gap, at: int, out: list[Event]
    ) -> None:
        """Take a gap that a lane reports, or what has become of one."""
        lane = subscription.lanes[slot]
        if subscription.is_suppressed(gap):
            return
        if lane.is_held:
            self._queue(lane, gap, at)
            return
        if gap.state in ("filled", "partial") or not self._has_others(slot, at):
            # What has become of one that was passed on; or nobody else can fill it.
            out.append(subscription.tell(gap, at))
            return
        lane.gaps.append(gap)
        self._hold(subscription, slot, at)

    def _hold(self, subscription: Subscription, slot: int, at: int) -> None:
        lane = subscription.lanes[slot]
        if not lane.is_held:
            lane.is_held, lane.held_since = True, at
            self._held[id(subscription), slot] = subscription, slot

    @staticmethod
    def _queue(lane: SlotLane, event: Event, at: int) -> None:
        if not lane.queue:
            lane.held_since = at  # until now there was nothing to hold
        lane.queue.append(event)

    def _others(self, slot: int, at: int) -> list[int]:
        """Return the other slots that live."""
        return [
            other for other, spoke in self._spoke.items() if other != slot and spoke > at - HOLD
        ]

    def _is_early(self, at: int) -> bool:
        """Return whether slots that there are to be may have yet to send their first message."""
        return len(self._spoke) < self.expected and at - self._begun_at < HOLD

    def _has_others(self, slot: int, at: int) -> bool:
        return self._is_early(at) or bool(self._others(slot, at))

    def _try_all(self, at: int) -> list[Event]:
        out: list[Event] = []
        for subscription, _ in list(self._held.values()):
            out += self._settle(subscription, at)
        return out

    def _settle(self, subscription: Subscription, at: int) -> list[Event]:
        """Release what may be of all lanes of a subscription: one may let another go on."""
        out: list[Event] = []
        before, waiting = -1, 0
        while waiting != before:
            before, waiting = waiting, 0
            for slot, lane in subscription.by_first():
                if lane.is_held and lane.queue:
                    out += self._try(subscription, slot, at)
                    waiting += len(lane.queue)
        return out

    def _try(self, subscription: Subscription, slot: int, at: int) -> list[Event]:
        """Release what is held of a lane as far as it may be."""
        out: list[Event] = []
        lane = subscription.lanes[slot]
        while lane.is_held and lane.queue:
            first = lane.first_live()
            if first is None:  # only gaps, and what fills them: it is not known yet where they end
                if at - lane.held_since < HOLD:
                    break
                out += self._release(subscription, slot, at, is_covered=False)
                continue
            order, newest = order_of(first), subscription.newest
            if newest is not None and newest >= order:
                out += self._release(subscription, slot, at, is_covered=True)
            elif at - lane.held_since >= HOLD or not self._is_awaited(
                subscription, slot, order, at
            ):
                out += self._release(subscription, slot, at, is_covered=False)
            else:
                break
        return out

    def _is_awaited(self, subscription: Subscription, slot: int, order: Order, at: int) -> bool:
        """Return whether another slot may still bring something before *order*."""
        if self._is_early(at):
            return True
        for other in self._others(slot, at):
            lane = subscription.lanes.get(other)
            if lane is None or not lane.is_held:
                return True
            first = lane.first_live()
            if first is None or order_of(first) < order:
                return True
            if order_of(first) == order and other < slot:
                return True
        return False

    def _release(
        self, subscription: Subscription, slot: int, at: int, *, is_covered: bool
    ) -> list[Event]:
        """Pass on what is held of a lane, up to its next gap.

        *is_covered* says that another slot has brought what is before it; else its gap is passed on.
        """
        lane = subscription.lanes[slot]
        out: list[Event] = []
        queue, lane.queue = lane.queue, deque()
        lane.is_held = False
        self._held.pop((id(subscription), slot), None)
        while queue and type(queue[0]) is Gap:
            lane.gaps.append(queue.popleft())  # type: ignore[arg-type]
        gaps, lane.gaps = lane.gaps, []
        if not queue and not is_covered:  # some are passed on: nothing came after them, of any slot
            out += [subscription.tell(gap, at) for gap in gaps if subscription.is_within(gap)]
            gaps = [gap for gap in gaps if not subscription.is_within(gap)]
        if is_covered or not queue:
            for gap in gaps:
                subscription.suppress(gap, at)
        elif gaps:
            out += subscription.common_gap(gaps, queue[0], at)
        elif slot not in subscription.heirs:
            found = gaps_after_takeover(subscription.last, queue[0])
            out += [subscription.tell(gap, at) for gap in found]
        while queue:
            event = queue.popleft()
            if type(event) is Gap:
                if subscription.is_suppressed(event):
                    continue
                if event.state in ("filled", "partial"):
                    out.append(subscription.tell(event, at))  # what has become of one
                    continue
                lane.gaps.append(event)
                lane.queue = queue
                self._hold(subscription, slot, at)
                break
            self._pass(subscription, slot, lane, event, at, out)
        subscription.forget_gaps(at - 60 * WINDOW)
        return out
