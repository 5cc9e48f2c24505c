"""What a node may publish now: shared by the steering and the sink."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from attrs import Factory, define
from tapeloom.errors import SinkUnavailable
from tapeloom.events import Event, Gap, Trade
from tapeloom.plugin import StoredPositions
from tapeloom_nats.messages import events_of
from tapeloom_nats.state import State

__all__ = ["Lease", "Leases", "Published"]

#: In ns. Events of several feeds may be delivered in another order than that in which they were read, by far
#: less than this.
_OVERLAP = 10_000_000_000


@define(eq=False)
class Lease:
    """The right to publish a shard in a slot, under a fence."""

    shard: str
    slot: int
    fence: int
    expected: int  #: number of the last message on the subject
    state: State  #: what the subject has: the numbers of runs, and positions at a checkpoint
    #: The positions of the events that the subject has. Those that core computes for the sink are also of events
    #: that this node has read and, without a lease, not published.
    kept: StoredPositions
    size: int = 0  #: of what was published since the last checkpoint, in bytes
    saved_at: float = 0.0  #: when the last checkpoint was saved, in monotonic seconds
    #: Events that were read before, in ns, are of an earlier lease: there may be a hole behind them that
    #: nobody has reported. 0: all have been read since.
    since: int = 0
    #: Another node was live when it began, and publishes what was before the first live event of a subscription:
    #: until when, in ns, the venue may repeat that. 0: nobody was, or it has passed.
    beside_until: int = 0
    #: By subscription: the number of its first live event since, or of its first gap.
    _begun: dict[tuple[str, str, str], int] = Factory(dict)

    def read_beside(self, events: Sequence[Event], indexes: list[int], first: int) -> list[int]:
        """Return the indexes without the past trades that the venue repeats after the subscription.

        *first* is the number of the first of *events*. Events that are written again have the same answer.
        """
        if events[0].recv >= self.beside_until:
            self.beside_until = 0
            return indexes
        found, begun = [], self._begun
        for index in indexes:
            event = events[index]
            if type(event) is Trade or type(event) is Gap:
                key, number = (event.venue, event.symbol, event.channel), first + index
                is_past = type(event) is Trade and event.origin != "live"
                if is_past and number < begun.get(key, number + 1):
                    continue
                begun.setdefault(key, number)
            found.append(index)
        return found

    def begin_with(self, positions: Mapping[str, str], kept: StoredPositions) -> None:
        """Replace the positions of the subject by *positions*, of all slots, which *kept* begins with.

        Those that it had are of an earlier owner of the slot. Gaps that are open in them may have been filled
        since, by the owner of another slot.
        """
        self.state.changed.update(self.state.positions, positions)
        self.state.positions, self.kept = dict(positions), kept

    def stored(self, events: Sequence[Event]) -> None:
        """Take note of events that the subject has now."""
        self.kept.add(events)

    def read_back(self) -> None:
        """Take note of the events of the messages that were read from the subject."""
        bodies, self.state.bodies = self.state.bodies, []
        for header, body in bodies:
            if header.begun:
                # What the owner before has not filled was reported again, or is in another slot.
                self.kept.forget_gaps()
            else:
                self.kept.add([event for _, event in events_of(header, body)])

    def checkpoint(self) -> State:
        """Return the state with the positions of what the subject has."""
        self.state.update(self.kept.changed())
        return self.state

    def read_since(self, events: Sequence[Event], indexes: list[int]) -> list[int]:
        """Return the indexes of the events that were read since the lease began."""
        if events[0].recv >= self.since + _OVERLAP:
            self.since = 0  # what follows was read later: it is not compared any more
            return indexes
        return [index for index in indexes if events[index].recv >= self.since]


@define
class Published:
    """What the sink has published, for people."""

    events: int = 0
    gaps: int = 0
    fenced: int = 0  #: events that were not published, because another node has their shard
    last_event: int = 0  #: when the newest event was read, in ns
    lag: float = 0.0  #: seconds from the read of an event until it was stored, of the last batch


@define(eq=False)
class Leases:
    """The leases of this node, by shard.

    The lease of the node holds until `valid_until`, by its own monotonic clock. After it nothing is
    published until the node has joined again and knows which shards are still its own.
    """

    monotonic: Callable[[], float]
    valid_until: float = 0.0
    is_settled: bool = False  #: the node has joined, and knows which shards it holds
    epoch: int = 0  #: of the run of the sink; 0 until it was opened
    ended: set[str] = Factory(set)  #: shards whose end was published
    ending: dict[str, str] = Factory(
        dict
    )  #: details of the Status with which a shard ends, by shard
    #: Details of the Status that shows that what is read of a shard is published, by shard.
    starting: dict[str, str] = Factory(dict)
    live: set[str] = Factory(set)  #: shards of which that was published
    published: Published = Factory(Published)
    _leases: dict[str, Lease] = Factory(dict)
    _lock: threading.Lock = Factory(threading.Lock)

    def get(self, shard: str) -> Lease | None:
        """Return the lease of a shard; None if another node has it."""
        return self._leases.get(shard)

    def all(self) -> list[Lease]:
        """Return the leases of all shards that are held."""
        with self._lock:
            return [*self._leases.values()]

    def hold(self, lease: Lease) -> None:
        """Let the sink publish a shard."""
        with self._lock:
            self._leases[lease.shard] = lease
            self.ended.discard(lease.shard)

    def hold_again(self, lease: Lease) -> None:
        """Let the sink publish a shard under another fence, of which nothing is published yet."""
        with self._lock:
            self._leases[lease.shard] = lease
            self._forget_start(lease.shard)

    def _forget_start(self, shard: str) -> None:
        self.starting.pop(shard, None)
        self.live.discard(shard)

    def lose(self, shard: str) -> None:
        """Let the sink drop what comes of a shard."""
        with self._lock:
            self._leases.pop(shard, None)
            self.ending.pop(shard, None)
            self._forget_start(shard)

    def go_live(self, shard: str) -> None:
        """Record that what is read of a shard is published."""
        with self._lock:
            if self.starting.pop(shard, None) is not None:
                self.live.add(shard)

    def end(self, shard: str) -> None:
        """Record that the end of a shard was published."""
        self.lose(shard)
        self.ended.add(shard)

    @property
    def is_valid(self) -> bool:
        """Whether the node may publish."""
        return self.is_settled and self.monotonic() < self.valid_until

    def check(self) -> None:
        """Raise SinkUnavailable unless the node may publish."""
        if not self.is_valid:
            raise SinkUnavailable(
                "this node has no valid lease in its cluster: it has not joined yet, or NATS could not be"
                " reached for longer than the lease. It joins again by itself."
            )
