"""What a sink is given and what it returns.

A sink opens a store, writes batches to it in order, and closes it. Core does the rest: it queues, numbers,
selects, retries, spools to disk and resumes. A sink holds no queue, no retry loop and no thread of its own.

Exactly once needs one thing of a sink: `write` stores the events, `batch.last` and `batch.positions` in one
transaction, and `open` returns what was stored. After any error core calls `close` and `open` again, and
continues after the returned number; so a batch whose acknowledgement was lost is not written twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, Protocol

from attrs import field, frozen

from tapeloom.events import Event

from .state import StreamState, no_stream

#: What a store promises for each event that it has acknowledged.
#: exactly_once: It is stored once, also after lost acknowledgements, crashes and restarts.
#: at_least_once: It is stored once or more often: after a crash or a lost acknowledgement it may be repeated.
#: at_most_once: It is stored once or not at all: what is lost on the way is not sent again.
Guarantee = Literal["exactly_once", "at_least_once", "at_most_once"]


def _count(positions: Mapping[str, str]) -> str:
    return str(len(positions))


#: No position: what a store without events has.
NO_POSITIONS: Mapping[str, str] = MappingProxyType({})


@frozen
class SinkRun:
    """What `Sink.open` gets: whose events it will receive, and how they are numbered."""

    #: The name of the sink in the stack. A store that several sinks share keeps their numbers apart by it.
    sink: str
    #: The number of the run, in ns since 1970: events are numbered from 1 within it. It is the same after
    #: a restart with a spool, and for every replay of the same tapes with the same stack.
    epoch: int
    #: Returns what the stream says of itself now. It may be called from any thread.
    state: Callable[[], StreamState] = field(default=no_stream, repr=False, eq=False)


@frozen
class Resume:
    """What `Sink.open` returns: what the store has."""

    #: The number of the last event of this run that is stored; 0 if there is none.
    last: int = 0
    #: The latest positions stored by this sink in any run, as `SinkBatch.positions` had them: by key,
    #: the newest value.
    positions: Mapping[str, str] = field(default=NO_POSITIONS, repr=_count)
    #: Of a sink with `has_checkpoints`: the events of any run that it has stored after *positions*, in
    #: batches, those of each subscription in order. Read at the first opening only.
    events: Iterable[Sequence[Event]] = field(default=(), repr=False, eq=False)


def _no_positions() -> Mapping[str, str]:
    return NO_POSITIONS


@frozen(eq=False)
class SinkBatch:
    """Events to write, in order. The event at index `i` has the number `first + i` of the run `epoch`.

    A number is given once: after a retry or a restart the same event has the same number. The events of
    a batch may be cut differently then.
    """

    epoch: int  #: The number of the run, as in `SinkRun`.
    first: int  #: The number of the first event.
    events: Sequence[Event]  #: At least one event.
    #: What has changed of the sink's positions: texts by key, to be stored together with the events and
    #: returned by `open`. They say where core continues after a restart; a sink does not read them.
    positions: Mapping[str, str] = field(default=NO_POSITIONS, repr=_count)
    #: For a sink with `has_checkpoints`: returns the positions after this batch that have changed since it
    #: was last called for a batch that was stored; after `open`, all. To be called by `write` or `close`.
    checkpoint: Callable[[], Mapping[str, str]] = field(default=_no_positions, repr=False)

    @property
    def last(self) -> int:
        """The number of the last event."""
        return self.first + len(self.events) - 1


class OpenedSink(Protocol):
    """What every sink has. Each method may be async, or plain: then it runs in a worker thread."""

    #: What the store promises with the settings that the sink was created with.
    guarantee: Guarantee
    #: Optional. The event loops that an async sink works on, "asyncio" or "trio"; by default both.
    #: backends: frozenset[str]

    def open(self, run: SinkRun, /) -> Resume | Awaitable[Resume]:
        """Connect, create what is missing in the store, and return what it has.

        Called at the start, and again after each error, each time after `close`.
        """
        ...

    def close(self) -> Awaitable[None] | None:
        """Release all resources. Called after each `open`, also if it failed; must not raise."""
        ...


class Sink(OpenedSink, Protocol):
    """Writes events to a store.

    Of its plain methods never two run at a time. A method raises

    - `SinkUnavailable` (or an OSError) if the store cannot be reached now: core waits, opens the sink again
      and continues;
    - `SinkRefused` if the store cannot be used as configured, such as missing rights: the sink is disabled;
    - `BatchRefused` if the store refuses the content of the batch: core finds the events that are refused
      and sets them aside. Any other exception counts as that.

    Messages are sentences that name the remedy, without secrets.
    """

    #: Optional. Whether it can read back what it has stored: it keeps positions of `SinkBatch.checkpoint`
    #: now and then, and returns the events after them as `Resume.events`. `SinkBatch.positions` has only
    #: what does not follow from events then. By default false.
    #: has_checkpoints: bool
    #: Optional. For how many seconds events are collected to be written together where the stack does not
    #: say; by default 0.05. 0 for a sink whose readers want events at once.
    #: max_batch_delay: float

    def write(self, batch: SinkBatch, /) -> Awaitable[None] | None:
        """Store a batch; return when it is durable."""
        ...


class ObservingSink(OpenedSink, Protocol):
    """Shows or counts events instead of storing them: at most once, and without a queue."""

    def observe(self, events: list[Event], /) -> None:
        """Look at a batch, on the event loop, while it is delivered: nothing else runs meanwhile.

        It must neither wait nor change the list, and keep few of the events: each that is kept makes
        the next ones cost more. May be called before `open` has succeeded, and until `close`. After an
        exception the sink is disabled.
        """
        ...


class IdleSink(Protocol):
    """A sink that has something to do while no events come, such as to close a file that is old enough."""

    def idle(self) -> Awaitable[None] | None:
        """Do what is due. Called once a second while nothing is written, between `open` and `close`.

        After an error core calls `close`, and `open` before the next write.
        """
        ...


class CheckedSink(Protocol):
    """A sink that `tapeloom check --connect` can try."""

    def check(self) -> Sequence[str] | Awaitable[Sequence[str]]:
        """Connect and return lines for people: versions, rights, differences of the schema.

        Changes nothing in the store. Raises SinkUnavailable or SinkRefused.
        """
        ...
