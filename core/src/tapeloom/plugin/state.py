"""What a running stream says of itself when it is asked: for screens, metrics and health checks.

Each class is a copy of one moment. Asking costs nothing but the copy; nothing is collected for it, except
the times of the stages once they have been asked for.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from tapeloom.events import QueuePolicy

from .channels import Subscription


@frozen
class ConnectionState:
    """A connection to an endpoint, or the attempt to open one."""

    label: str  #: The name of the endpoint or feed, and the number of the connection in the feed.
    connected_seconds: float | None  #: Since when it is open; None while it is not.
    wanted: tuple[Subscription, ...]  #: The subscriptions that it is to carry.
    live: frozenset[Subscription]  #: Those that the venue has acknowledged.


@frozen
class StageTime:
    """The time that a stage has taken since the times are measured."""

    seconds: float = 0.0
    batches: int = 0
    events: int = 0  #: that were given to it

    def __add__(self, other: StageTime) -> StageTime:
        return StageTime(
            self.seconds + other.seconds, self.batches + other.batches, self.events + other.events
        )


@frozen
class FeedState:
    """A feed: its connections, gaps, stages and counters."""

    name: str
    venue: str
    market: str
    symbols: tuple[str, ...]
    channels: tuple[str, ...]
    counters: Mapping[str, int] = field(repr=False)
    connections: tuple[ConnectionState, ...] = ()  #: Empty for a feed that connects by other means.
    live: frozenset[Subscription] = frozenset()  #: Subscriptions that have begun and not ended.
    open_gaps: int = 0  #: Subscriptions with a gap that has not ended, or is being filled.
    #: By how much the venue's clock is ahead of ours at least, in ns; None if not known.
    clock_offset: int | None = None
    stages: Mapping[str, StageTime] = field(factory=dict)
    has_ended: bool = False
    error: str = ""  #: Why it failed; empty if it did not.


#: The upper bounds in ns, inclusive, of what `QueueState.delays` counts, from 0.1 ms to 10 s.
DELAY_BOUNDS = (
    100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000,
    100_000_000, 250_000_000, 500_000_000, 1_000_000_000, 2_500_000_000, 5_000_000_000, 10_000_000_000,
)  # fmt: skip


@frozen
class QueueState:
    """The queue of a consumer, a callback or a sink."""

    name: str
    waiting: int  #: events
    size: int  #: the most events that may wait
    policy: QueuePolicy
    received: int  #: events since the start
    dropped: int  #: events since the start that the consumer missed
    is_sink: bool = False
    problem: str = ""  #: Why the store of a sink cannot be written now; empty if it can.
    #: How many events the consumer took by their age since our read: up to each of `DELAY_BOUNDS`, and
    #: beyond the last one. Counted since the first state that was asked for.
    delays: tuple[int, ...] = ()
    delay_sum: int = 0  #: The sum of these ages, in ns.


@frozen
class StreamState:
    """A stream: its feeds and queues, and the counters of all of them, added up."""

    at: int  #: The time of the copy, in ns, on our clock.
    feeds: tuple[FeedState, ...] = ()
    queues: tuple[QueueState, ...] = ()
    counters: Mapping[str, int] = field(factory=dict, repr=False)
    is_replay: bool = False


def no_stream() -> StreamState:
    """Return the state of no stream, for a sink that is used without one."""
    return StreamState(0)
