"""The parts of a stream as objects, for tests, benchmarks and tools.

Nothing here opens a connection by itself. `compose_feed` returns one feed of a stack as core composes it: its
parser, its stages, the messages it would send. This module is public; the private packages that it
imports from are not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from tapeloom.plugin.protocol import decode_replies

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
    Subscription,
    Unrequested,
)

__all__ = [
    "BACKENDS", "ComposedFeed", "Conformance", "FramesRead", "HookSpecs", "InstalledPlugin",
    "PendingMessages", "Proof", "RecordedFrame", "SinkSpec", "StageSpec", "SystemClock", "Tape",
    "compose_feed", "compose_sink", "conformance_file", "installed", "read_conformance",
    "websocket_dial",
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
    `parse` is the venue's parser; a frame at which it raises becomes a Reject.
    """

    def __init__(self, plan: FeedPlan) -> None:
        self._plan = plan
        self._pipeline = Pipeline(plan.feed, plan.steps)
        self.feed, self.history, self.dial = plan.feed, plan.history, plan.dial
        self.endpoints, self.source, self.codec = plan.endpoints, plan.source, plan.codec
        self.parse = FeedIntake(plan).parse

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


def compose_sink(stack: StackLike, *, registry: Registry | None = None) -> Sink:
    """Compose a stack and return its first sink. Raises ConfigError or PluginError."""
    sinks = _composed(stack, registry, None, 0).sinks
    if not sinks:
        raise ConfigError([Mistake("sink", "expected a [[sink]], got none")])
    return sinks[0][1]


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
