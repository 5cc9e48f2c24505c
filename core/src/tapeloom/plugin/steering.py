"""What a plugin is given that decides which symbols a process streams, as in a cluster of processes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from attrs import frozen

from tapeloom.events import Event

from .protocol import Endpoint
from .timing import Clock


@frozen(eq=False)
class FeedOutline:
    """A feed as the stack describes it, with all its symbols."""

    name: str  #: The unique name of the feed.
    venue: str  #: The venue as named in the stack.
    symbols: tuple[str, ...]  #: Its unified symbols.
    channels: tuple[str, ...]  #: Its channels.
    stages: tuple[str, ...]  #: The names of its stages.
    endpoints: tuple[Endpoint, ...]  #: Where it connects to; empty for a `Source`.
    unidentified: tuple[str, ...] = ()  #: Those of its channels of `Endpoint.unidentified`.


class SteeredFeed(Protocol):
    """A running feed whose symbols are steered."""

    async def add(self, symbols: Sequence[str], stored: Mapping[str, str]) -> None:
        """Subscribe to more symbols, and continue after the positions *stored*, as of `SinkBatch`.

        Raises SymbolError or ConfigError.
        """
        ...

    async def fill_gaps(self, symbols: Sequence[str], seconds: float) -> None:
        """Report the gaps of symbols that are to be dropped, and fill them: for so many *seconds* at most."""
        ...

    async def drop(self, symbols: Sequence[str]) -> None:
        """Unsubscribe from symbols. What is not filled of their gaps is told as missing."""
        ...

    def is_live(self, symbols: Sequence[str]) -> bool:
        """Return whether the venue has answered all subscriptions of *symbols*, or a source runs."""
        ...


class StoredPositions(Protocol):
    """Up to where something that was stored has the events of each subscription."""

    def add(self, events: Sequence[Event], /) -> None:
        """Take note of events that are stored now, in order."""
        ...

    def forget_gaps(self) -> None:
        """Forget the gaps without a final state: who stored them has ended, and the next one reports its own."""
        ...

    def changed(self) -> Mapping[str, str]:
        """Return, as texts, the positions that have changed since it was last called."""
        ...


@frozen(eq=False)
class Steered:
    """What `Steering.run` gets: the running feeds by name."""

    feeds: Mapping[str, SteeredFeed]  #: At the start none of them has a symbol.
    #: Delivers events to the consumers and sinks, in order with those of the feeds.
    emit: Callable[[list[Event]], Awaitable[None]]
    clock: Clock
    #: Returns what keeps positions, beginning with those that were stored, as texts. With it a plugin that leaves
    #: out events of a batch stores the positions of those that it has stored.
    positions: Callable[[Mapping[str, str]], StoredPositions]


class Steering(Protocol):
    """Decides which symbols of its feeds a process streams."""

    backends: frozenset[str]  #: The event loops that it works on: "asyncio", "trio".

    async def run(self, steered: Steered, /) -> None:
        """Add and drop symbols until cancelled, which happens after the sinks have written everything.

        Raises TapeloomError if it cannot go on; that ends the stream.
        """
        ...

    def describe(self) -> Sequence[str]:
        """Return lines for `tapeloom check`, without connecting."""
        ...
