"""Puts the events of the messages of a stream in order, as a function of the messages and nothing else.

Without a clock and without chance: who reads the same messages again gets the same events. So a reader that
was killed reads from `oldest` on, drops what comes of the messages up to its cursor, and has lost nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import itemgetter

from attrs import Factory, define, frozen
from tapeloom.events import Event, Gap

from .messages import Bodies, Header, events_of, parse_header, unpacked
from .replicas import Replicas
from .restart import Memory

__all__ = ["Sequencer", "ShardCopy", "copy_of"]

#: How many numbers of events without a symbol are kept, to recognise them in other shards.
_REMEMBERED = 4096
#: In ns. For so long at most the time between two messages counts.
_MAX_PAUSE = 1_000_000_000

_number = itemgetter(0)


@frozen
class ShardCopy:
    """What a subject says: whose messages it has."""

    sink: str
    shard: str
    slot: int | None = None  #: in a cluster, which copy of the shard

    def __str__(self) -> str:
        return f"{self.sink} {self.shard} {self.slot}"

    @classmethod
    def parse(cls, text: str) -> ShardCopy:
        """Return the copy that `str` shows. Raises ValueError for any other text."""
        sink, shard, slot = text.rsplit(" ", 2)
        return cls(sink, shard, int(slot))


def copy_of(subject: str, prefix: str) -> ShardCopy | None:
    """Return the place of a subject; None if it is not one of ours."""
    if not subject.startswith(prefix + "."):
        return None
    tokens = subject[len(prefix) + 1 :].split(".")
    if len(tokens) == 2:
        return ShardCopy(tokens[0], tokens[1])
    if len(tokens) == 3 and tokens[2].isdecimal():
        return ShardCopy(tokens[0], tokens[1], int(tokens[2]))
    return None


class _StreamClock:
    """The time by which the copies of a shard are judged: the server's time, as far as the stream took messages.

    While the servers choose a leader no node can publish, which says nothing about any of them. So a pause of the
    whole stream counts for `_MAX_PAUSE` at most. A server's clock that is set back does not set this one back.
    """

    def __init__(self) -> None:
        self._at = 0  # the server's time of the newest message, in ns
        self.skipped = 0  #: how much has not counted until the newest message, in ns
        #: How much had not counted before a message, by its number.
        self._before: deque[tuple[int, int]] = deque([(0, 0)], maxlen=_REMEMBERED)

    def advance(self, number: int, at: int) -> int:
        """Return the time of the next message, to which the server gave the time *at*, in ns."""
        pause = at - self._at if self._at else 0
        self._at = at
        if not 0 <= pause <= _MAX_PAUSE:
            self.skipped += pause - (_MAX_PAUSE if pause > 0 else 0)
            self._before.append((number, self.skipped))
        return at - self.skipped

    def skipped_until(self, number: int) -> int:
        """Return how much had not counted until a message, in ns. No older message may be asked for later."""
        before = self._before
        while len(before) > 1 and before[1][0] <= number:
            before.popleft()
        return before[0][1]

    def set(self, number: int, skipped: int) -> None:
        """Go on with message *number* as if *skipped* ns had not counted until then."""
        self._at, self.skipped = 0, skipped
        self._before.clear()
        self._before.append((number, skipped))


@define
class _Batch:
    """The messages of one batch that have arrived; the others of its shards are missing."""

    epoch: int
    last: int
    first_message: int
    parts: list[Sequence[tuple[int, Event]]] = Factory(list)


class Sequencer:
    """Turns messages into events: in order, each once, without those of nodes that were replaced.

    - The events of a batch that was split over several shards are joined in the order of their numbers.
      If one of its messages is missing, because the sink was killed, the others wait for its next message.
    - The copies of a shard in a cluster are merged, see `Replicas`. Messages with a lower fence than was
      seen are dropped: their sender had lost its lease.
    """

    def __init__(
        self, prefix: str, count: Callable[[str, int], None] = lambda name, count: None
    ) -> None:
        self._prefix = prefix
        self._count = count
        self._bodies = Bodies()
        self._begun: dict[
            str, int
        ] = {}  #: by subject: the first message of a body that is incomplete
        self._batches: dict[str, _Batch] = {}  #: by sink
        self._fences: dict[ShardCopy, int] = {}
        self._epochs: dict[ShardCopy, int] = {}
        self._places: dict[str, ShardCopy | None] = {}
        self._replicas: dict[tuple[str, str], Replicas] = {}
        #: The numbers of the last messages of nodes that had been replaced.
        self._stale: deque[int] = deque(maxlen=_REMEMBERED)
        self._clock = _StreamClock()
        self._memory: Memory | None = None  # what is to be restored
        self._known_stale = frozenset[int]()
        self._shared: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED)
        self._is_shared: set[tuple[int, int]] = set()

    def add(
        self, number: int, at: int, subject: str, headers: Mapping[str, str] | None, data: bytes
    ) -> list[Event]:
        """Return the events that follow from the next message.

        *number* is its number in the stream and *at* the server's time of it, in ns. Raises SinkRefused if
        it is none of ours, or of a newer version; ValueError if its body cannot be read.
        """
        if self._memory is not None and number > self._memory.number:
            self._restore()
        at = self._clock.advance(number, at)
        try:
            place = self._places[subject]
        except KeyError:
            place = self._places[subject] = copy_of(subject, self._prefix)
        if place is None:
            return []
        header = parse_header(headers)
        if place.slot is not None:
            return self._add_copy(number, at, place, header, data)
        return self._add(number, place, header, data)

    @property
    def fences(self) -> Mapping[str, int]:
        """The highest fence that was seen of each copy of a shard, to be kept with the cursor."""
        return {str(place): fence for place, fence in self._fences.items()}

    def raise_fences(self, fences: Mapping[str, int]) -> None:
        """Take over fences that were seen before. To be called when what was read before is read again."""
        for text, fence in fences.items():
            place = ShardCopy.parse(text)
            self._fences[place] = max(fence, self._fences.get(place, 0))

    def memory(self, number: int) -> Memory:
        """Return what a reader keeps, besides what it reads again, as of its last message: *number*."""
        if self._memory is not None:
            return self._memory  # it is being restored
        first = self.oldest(number)
        shards = {f"{sink} {shard}": of.keep() for (sink, shard), of in self._replicas.items()}
        epochs = {str(place): epoch for place, epoch in self._epochs.items()}
        stale = [dropped for dropped in self._stale if dropped >= first]
        skipped = self._clock.skipped_until(first), self._clock.skipped
        return Memory(number, first, skipped, stale, epochs, {**self.fences}, shards)

    def remember(self, memory: Memory) -> None:
        """Go on as the reader that kept *memory*. The messages from `Memory.first` on are to be added next."""
        self._memory, self._known_stale = memory, frozenset(memory.stale)
        self._stale.extend(memory.stale)
        self._clock.set(memory.first, memory.skipped[0])
        for text, kept in memory.shards.items():
            sink, shard = text.rsplit(" ", 1)
            self._merge(sink, shard).remember(kept)

    def _restore(self) -> None:
        """Take over what was kept: all that follows from the messages until then has been read again."""
        assert self._memory is not None
        memory, self._memory = self._memory, None
        self._epochs = {ShardCopy.parse(text): epoch for text, epoch in memory.epochs.items()}
        self.raise_fences(memory.fences)
        self._clock.skipped = memory.skipped[1]
        for merge in self._replicas.values():
            merge.restore()

    def oldest(self, number: int) -> int:
        """Return from which message on to read again, to have the same state after message *number*."""
        waiting = [
            *self._begun.values(),
            *(batch.first_message for batch in self._batches.values()),
        ]
        merging = [
            first for merge in self._replicas.values() if (first := merge.oldest) is not None
        ]
        return min(chain(waiting, merging), default=number + 1)

    # ------------------------------------------------------------------------ one writer for a shard

    def _add(self, number: int, place: ShardCopy, header: Header, data: bytes) -> list[Event]:
        key = header.epoch, header.last
        waiting = self._batches.get(place.sink)
        out: list[Event] = []
        if waiting is not None and (waiting.epoch, waiting.last) != key:
            out = self._complete(
                place.sink
            )  # what is missing was never stored, or comes otherwise cut
        subject = f"{place.sink}.{place.shard}"
        first = number if header.part == 1 else self._begun.get(subject, number)
        body = self._body(number, subject, header, data)
        if body is None:
            return out
        if header.messages == 1:
            _, events = unpacked(header, body)
            return out + events if out else events
        numbered = events_of(header, body)
        batch = self._batches.setdefault(place.sink, _Batch(*key, first))
        batch.first_message = min(batch.first_message, first)
        batch.parts.append(numbered)
        return out + self._complete(place.sink) if len(batch.parts) == header.messages else out

    def _complete(self, sink: str) -> list[Event]:
        parts = self._batches.pop(sink).parts
        return [event for _, event in sorted(chain.from_iterable(parts), key=_number)]

    def _body(self, number: int, subject: str, header: Header, data: bytes) -> bytes | None:
        """Return a complete body; None if parts of it are missing, or if there is none."""
        if header.parts == 1 or header.part == 1:
            self._begun.pop(subject, None)
        if header.parts > 1:
            self._begun.setdefault(subject, number)
        body = self._bodies.add(subject, header, data)
        if body is not None:
            self._begun.pop(subject, None)
        return body if header.count else None

    # ---------------------------------------------------------------------------- copies of a shard

    def _add_copy(
        self, number: int, at: int, place: ShardCopy, header: Header, data: bytes
    ) -> list[Event]:
        if self._memory is not None:
            self._recall(number, at, place, header, data)
            return []
        if header.fence < self._fences.get(place, 0):
            self._count("fenced_messages", 1)
            self._stale.append(number)
            return []
        self._fences[place] = header.fence
        merge = self._merge(place.sink, place.shard)
        merge.expected = header.replicas
        slot = place.slot
        assert slot is not None
        out: list[Event] = []
        if header.begun or self._epochs.get(place) != header.epoch:
            self._epochs[place] = header.epoch
            merge.lead.nodes[slot] = header.node
            out = merge.begin(slot, number, at, begun=header.begun)
        if header.ended:
            return out + merge.end(slot, number, at)
        # Also one without events, such as a fence, shows that its sender lives.
        return out + merge.add(slot, self._events(number, place, header, data), number, at)

    def _recall(self, number: int, at: int, place: ShardCopy, header: Header, data: bytes) -> None:
        """Read a message again of which everything but the keys of its events is kept."""
        if number in self._known_stale or place.slot is None or header.ended:
            return
        events = self._events(number, place, header, data)
        self._merge(place.sink, place.shard).recall(place.slot, events, number, at)

    def _events(self, number: int, place: ShardCopy, header: Header, data: bytes) -> list[Event]:
        """Return the events of a body that is complete with this message; none if it is not.

        An event without a symbol is in each shard of a node: it is returned once.
        """
        body = self._body(number, f"{place.sink}.{place.shard}.{place.slot}", header, data)
        if body is None:
            return []
        return [
            event
            for index, event in events_of(header, body)
            if event.symbol or type(event) is Gap or self._is_new(header.epoch, index)
        ]

    def _merge(self, sink: str, shard: str) -> Replicas:
        merge = self._replicas.get((sink, shard))
        if merge is None:
            merge = self._replicas[sink, shard] = Replicas(self._count, shard)
        return merge

    def _is_new(self, epoch: int, number: int) -> bool:
        """Return whether an event without a symbol, which each shard of a node has, is the first."""
        key = epoch, number
        if key in self._is_shared:
            return False
        if len(self._shared) == _REMEMBERED:
            self._is_shared.discard(self._shared[0])
        self._shared.append(key)
        self._is_shared.add(key)
        return True
