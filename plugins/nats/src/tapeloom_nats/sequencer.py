"""Puts the events of the messages of a stream in order, as a function of the messages and nothing else.

Without a clock and without chance: who reads the same messages again gets the same events. So a reader that
was killed reads from `oldest` on, drops what comes of the messages up to its cursor, and has lost nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import itemgetter

import msgspec
from attrs import Factory, define, frozen
from tapeloom.events import Event, Gap

from .lanes import Quiet
from .messages import Bodies, Header, events_of, parse_header, unpacked
from .replicas import Replicas

__all__ = ["Memory", "Sequencer", "ShardCopy", "copy_of"]

#: How many numbers of events without a symbol are kept, to recognise them in other shards.
_REMEMBERED = 4096

#: How many quiet subscriptions are remembered: more do not fit into a message of a few hundred kB.
_MOST_QUIET = 5_000

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


class Memory(msgspec.Struct):
    """What a reader has to remember over a restart: it reads messages again, but only those of seconds."""

    number: int  #: after which message
    epochs: dict[str, int]  #: by copy: the run whose messages came last
    #: By sink and shard: the subscriptions without an event in the messages that are read again.
    quiet: dict[str, list[Quiet]]


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
        self._shared: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED)
        self._is_shared: set[tuple[int, int]] = set()

    def add(
        self, number: int, at: int, subject: str, headers: Mapping[str, str] | None, data: bytes
    ) -> list[Event]:
        """Return the events that follow from the next message.

        *number* is its number in the stream and *at* the server's time of it, in ns. Raises SinkRefused if
        it is none of ours, or of a newer version; ValueError if its body cannot be read.
        """
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
        """Return what is to be remembered after message *number*, beside what is read again."""
        before = self.oldest(number)
        quiet = {
            f"{sink} {shard}": found
            for (sink, shard), merge in self._replicas.items()
            if (found := [*merge.quiet(before)])
        }
        if sum(map(len, quiet.values())) > _MOST_QUIET:
            quiet = {}
        return Memory(number, {str(place): epoch for place, epoch in self._epochs.items()}, quiet)

    def remember(self, memory: Memory, first: int, at: int) -> None:
        """Take over what was remembered, before messages from *first* on are read again.

        *at* is the server's time in ns. A subscription of which something is read again needs no memory, and one
        that was remembered before them may have had events since.
        """
        if memory.number < first or not memory.quiet:
            return
        self._epochs.update({ShardCopy.parse(text): epoch for text, epoch in memory.epochs.items()})
        for text, found in memory.quiet.items():
            merge = self._merge(*text.rsplit(" ", 1))
            for quiet in found:
                if quiet.number < first:
                    merge.remember(quiet, at)

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
        if header.fence < self._fences.get(place, 0):
            self._count("fenced_messages", 1)
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
        body = self._body(number, f"{place.sink}.{place.shard}.{slot}", header, data)
        if body is None:
            return out
        events = [
            event
            for index, event in events_of(header, body)
            if event.symbol or type(event) is Gap or self._is_new(header.epoch, index)
        ]
        return out + merge.add(slot, events, number, at)

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
