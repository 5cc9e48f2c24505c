"""The parts of a stream as objects, for tests, benchmarks and tools.

Nothing here opens a connection by itself. `compose_feed` returns one feed of a stack as core composes it: its
parser, its stages, the messages it would send. This module is public; the private packages that it
imports from are not.
"""

from __future__ import annotations

import inspect
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from anyio import to_thread

from tapeloom.plugin.protocol import decode_replies
from tapeloom.plugin.sinks import SinkRun

from ._compose.composer import compose
from ._compose.conformance import Conformance, Proof, conformance_file, read_conformance
from ._compose.discovery import InstalledPlugin, installed
from ._compose.hook_checks import BACKENDS, HookSpecs
from ._compose.plan import Composition, FeedPlan
from ._compose.registry import Registry
from ._config import SinkSpec, StageSpec
from ._connection.frame_intake import FeedIntake, unreadable_frame
from ._connection.subscriptions import Subscriptions
from ._network.http_client import http_client
from ._network.websocket import dialer
from ._runtime.system_clock import SystemClock
from ._stream.opening import StackLike, load
from ._stream.pipeline import Pipeline
from ._stream.sinks.writer import Writer
from ._tape.reader import RecordedFrame, Tape
from .errors import ConfigError, Mistake
from .events import Event
from .plugin import (
    Ack,
    Clock,
    Dial,
    Endpoint,
    Frames,
    Message,
    Network,
    Refusal,
    Reply,
    Sink,
    Steering,
    Subscription,
    Unrequested,
)

__all__ = [
    "BACKENDS", "ComposedFeed", "Conformance", "FramesRead", "HookSpecs", "InstalledPlugin",
    "PendingMessages", "Proof", "RecordedFrame", "SinkSpec", "StageSpec", "SystemClock", "Tape",
    "call_sink", "compose_feed", "compose_sink", "compose_steering", "conformance_file", "installed", "read_conformance",
    "websocket_dial", "write_all",
]  # fmt: skip


class FramesRead(NamedTuple):
    """The result of parsing the frames of one read."""

    events: list[Event]  #: What the parser returned.
    replies: list[Reply]  #: What the codec decoded.


class ComposedFeed:
    """One feed as core composes it, without running it or opening connections.

    `feed` is the `Feed` that the plugins' hooks were called with. The data comes from connections to
    `endpoints`, whose messages `codec` encodes and decodes, or from `source`. `history` builds the REST
    requests for past data and reads the answers. `dial` opens connections, as wrapped by plugins.
    `parse` is the venue's parser; a frame at which it raises becomes a Reject. `unidentified` are the
    channels that the venue declares so.
    """

    def __init__(self, plan: FeedPlan) -> None:
        self._plan = plan
        self._pipeline = Pipeline(plan.feed, plan.steps)
        self.feed, self.history, self.dial = plan.feed, plan.history, plan.dial
        self.endpoints, self.source, self.codec = plan.endpoints, plan.source, plan.codec
        self.parse, self.unidentified = FeedIntake(plan).parse, plan.unidentified

    @property
    def stages(self) -> Mapping[str, Any]:
        """The stages by name, in order."""
        return self._pipeline.stages

    @property
    def due(self) -> int | None:
        """The earliest `due` of a stage, in ns; None if no stage waits."""
        return self._pipeline.due

    def connections(self) -> list[tuple[Endpoint, list[Subscription]]]:
        """Return the connections that the feed needs, each with its endpoint and subscriptions."""
        return self._plan.connections(self.feed.symbols)

    def read(self, payloads: Iterable[bytes], recv: int = 1) -> FramesRead:
        """Parse the frames of one read at *recv*, in ns, as a connection does."""
        replies: list[Reply] = []

        def on_control(frame: bytes) -> Sequence[Event]:
            decoded = decode_replies(self.codec, frame) if self.codec is not None else None
            if decoded is not None:
                unrequested = sum(isinstance(reply, Unrequested) for reply in decoded)
                self.feed.counters["unrequested"] += unrequested
                replies.extend(decoded)
                return []
            return [unreadable_frame(self.feed.venue, recv, frame)]

        return FramesRead(list(self.parse(Frames(payloads, recv, on_control))), replies)

    def process(self, events: list[Event]) -> list[Event]:
        """Return the batch that the stages deliver for *events*."""
        return self._pipeline(events)

    def tick(self, now: int) -> list[Event]:
        """Run the stages that are due at *now*, in ns, and return their events."""
        return self._pipeline.tick(now)

    def flush(self) -> list[Event]:
        """Return the events that the stages still hold when the feed ends."""
        return self._pipeline.flush()


def _composed(
    stack: StackLike, registry: Registry | None, clock: Clock | None, seed: int | None
) -> Composition:
    draft = load(stack)
    return compose(
        draft.stack, registry or Registry(), clock or SystemClock(), seed, draft.mistakes
    ).or_raise()


def compose_feed(
    stack: StackLike,
    *,
    feed: str = "",
    registry: Registry | None = None,
    clock: Clock | None = None,
    seed: int | None = 0,
) -> ComposedFeed:
    """Compose a stack and return the feed named *feed*, or its first one.

    Raises ConfigError or PluginError.
    """
    plans = {plan.feed.name: plan for plan in _composed(stack, registry, clock, seed).plans}
    if not plans or (feed and feed not in plans):
        raise ConfigError(
            [Mistake("feed", f"expected one of the feeds {sorted(plans)}, got {feed!r}")]
        )
    return ComposedFeed(plans[feed or next(iter(plans))])


def compose_steering(stack: StackLike, *, registry: Registry | None = None) -> Steering | None:
    """Return what steers the symbols of a stack; None if it has no `[cluster]`.

    Raises ConfigError or PluginError.
    """
    return _composed(stack, registry, None, 0).steering


def compose_sink(stack: StackLike, *, registry: Registry | None = None) -> Sink:
    """Compose a stack and return its first sink. Raises ConfigError or PluginError."""
    sinks = _composed(stack, registry, None, 0).sinks
    if not sinks:
        raise ConfigError([Mistake("sink", "expected a [[sink]], got none")])
    return sinks[0].sink


async def call_sink(method: Callable[..., Any], *args: Any) -> Any:
    """Call a method of a sink as core does: an async one here, a plain one in a worker thread."""
    if inspect.iscoroutinefunction(method):
        return await method(*args)
    return await to_thread.run_sync(method, *args)


async def write_all(
    sink: Sink,
    events: Sequence[Event],
    *,
    epoch: int,
    folder: Path,
    name: str = "sink",
    sizes: Iterable[int] = (64,),
    acknowledged: int = 0,
    on_acknowledged: Callable[[int], None] | None = None,
    clock: Clock | None = None,
    accepts_rejects: bool = True,
) -> Counter[str]:
    """Write events to a sink as a stream does, with retries, and close it; return the counters.

    The events have the numbers from 1 of the run *epoch*, in batches of *sizes*, in turn. Those that the
    store has are skipped, and those up to *acknowledged*, as after a restart with a spool.
    *on_acknowledged* gets the number of the last event of each batch that is stored. Events that the
    store refuses are set aside in *folder*. Raises SinkRefused.
    """
    counters: Counter[str] = Counter()
    rng = random.Random(0)
    run = SinkRun(name, epoch)
    writer = Writer(
        run, sink, clock or SystemClock(), rng, counters, folder, accepts_rejects=accepts_rejects
    )
    writer.stored = acknowledged
    lengths = cycle(sizes)
    try:
        while batch := events[acknowledged : acknowledged + next(lengths)]:
            await writer.write(acknowledged + 1, batch)
            acknowledged += len(batch)
            if on_acknowledged is not None:
                on_acknowledged(acknowledged)
    finally:
        await writer.close()
    return counters


class PendingMessages:
    """Matches replies to sent messages, as a connection does."""

    def __init__(self, wanted: Iterable[Subscription]) -> None:
        self._subscriptions = Subscriptions(list(wanted))

    @property
    def acknowledged(self) -> frozenset[Subscription]:
        """The subscriptions that the venue has acknowledged."""
        return frozenset(self._subscriptions.acknowledged)

    @property
    def has_pending(self) -> bool:
        """Whether a sent message has no reply yet."""
        return self._subscriptions.has_pending

    def sent(self, message: Message, *, unsubscribes: bool = False) -> None:
        """Record a message that was sent."""
        self._subscriptions.sent(message, float("inf"), unsubscribes=unsubscribes)

    def receive(self, reply: Reply) -> list[Subscription]:
        """Return the subscriptions that a reply newly acknowledges or refuses."""
        if isinstance(reply, Ack):
            return self._subscriptions.acknowledge(reply)
        return self._subscriptions.refuse(reply) if isinstance(reply, Refusal) else []

    def forget(self, subscriptions: Iterable[Subscription]) -> None:
        """Remove subscriptions that are no longer wanted."""
        self._subscriptions.remove(subscriptions)


@asynccontextmanager
async def websocket_dial(
    network: Network | None = None, *, name: str = "harness", clock: Clock | None = None
) -> AsyncIterator[Dial]:
    """Yield core's own WebSocket transport; errors name the feed *name*."""
    async with http_client(network or Network(), "harness") as web:
        yield dialer(web, name, clock or SystemClock())
