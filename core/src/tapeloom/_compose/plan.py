"""What a stack is composed to: the plan of each feed and each sink, before anything is started."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from attrs import Factory, define, frozen

from tapeloom._config import FeedSpec, SinkSpec
from tapeloom.errors import ConfigError, Mistake
from tapeloom.hooks import hookimpl
from tapeloom.plugin import (
    Codec,
    Dial,
    Endpoint,
    Feed,
    History,
    HistoryQuery,
    Link,
    Parse,
    Sink,
    Source,
    Stage,
    Subscription,
    channel_parts,
)

from .hook_checks import BACKENDS


@frozen
class StageStep:
    """A stage in its place: how it is made anew, and what becomes of it when it raises."""

    name: str
    stage: Stage
    build: Callable[[], Stage]
    on_error: str = "restart"


class HistoryQueue:
    """What stages ask of the venue's history. Kept until somebody listens."""

    def __init__(self) -> None:
        self._waiting: list[HistoryQuery] = []
        self._listener: Callable[[HistoryQuery], None] = self._waiting.append

    def __call__(self, want: HistoryQuery) -> None:
        self._listener(want)

    def listen(self, listener: Callable[[HistoryQuery], None]) -> None:
        """Hand everything asked, so far and from now on, to *listener*."""
        self._listener = listener
        for want in self._waiting:
            listener(want)
        self._waiting.clear()


@define(eq=False)
class Transport:
    """Dials the way that was chosen: a plugin's, or what the stream puts here before it starts."""

    chosen: Dial | None = None

    @property
    def backends(self) -> frozenset[str]:
        """The event loops on which the chosen way to dial works."""
        return frozenset(getattr(self.chosen, "backends", BACKENDS))

    def dial(self, endpoint: Endpoint) -> AbstractAsyncContextManager[Link]:
        """Dial in the chosen way."""
        assert self.chosen is not None
        return self.chosen(endpoint)

    @hookimpl
    def transport(self) -> Dial:
        """Answer the hook, so that plugins can wrap whatever was chosen."""
        return self.dial


@define
class FeedPlan:
    """One feed, composed: everything that runs it, and nothing that has been started."""

    spec: FeedSpec
    feed: Feed
    wants: HistoryQueue
    parse: Parse
    steps: tuple[StageStep, ...]
    endpoints: tuple[Endpoint, ...] = ()
    source: Source | None = None
    codec: Codec | None = None
    native: Callable[[str], str] | None = None  #: the names by the venue's rule
    history: History | None = None
    transport: Transport = Factory(Transport)
    #: What dials: the transport, as plugins have wrapped it.
    dial: Dial = Factory(lambda self: self.transport.dial, takes_self=True)

    def subscriptions(self, symbols: Sequence[str]) -> dict[int, list[Subscription]]:
        """Return what to subscribe for *symbols*, by the place of the endpoint that serves it.

        Raises ConfigError where no endpoint serves a channel.
        """
        wanted: dict[int, list[Subscription]] = {}
        for channel in self.feed.channels:
            some = wanted.setdefault(self._serving(channel), [])
            some += [Subscription(symbol, channel) for symbol in symbols]
        return wanted if self.endpoints else {}

    def _serving(self, channel: str) -> int:
        """Return the place of the first endpoint, or source, that serves *channel*."""
        name, _ = channel_parts(channel)
        sources = self.endpoints or (self.source,)
        serving = [frozenset[str]() if one is None else one.channels for one in sources]
        for place, channels in enumerate(serving):
            if not channels or name in channels:
                return place
        served = sorted(frozenset[str]().union(*serving))
        problem = f"{self.feed.venue} has no channel {name!r} here; it has {', '.join(served)}"
        raise ConfigError([Mistake("channels", problem)])

    def connections(self, symbols: Sequence[str]) -> list[tuple[Endpoint, list[Subscription]]]:
        """Return the connections for *symbols*: endpoints split by how much one may carry."""
        return [
            (endpoint := self.endpoints[place], some[start : start + endpoint.max_subscriptions])
            for place, some in sorted(self.subscriptions(symbols).items())
            for start in range(0, len(some), self.endpoints[place].max_subscriptions)
        ]

    def name(self, symbols: Sequence[str]) -> None:
        """Enter *symbols* into the listing, under the names that the venue's rule gives them.

        Raises SymbolError where the market can have no such symbol.
        """
        if self.native is None:
            return
        for symbol in symbols:
            if symbol not in self.feed.listing.native:
                self.feed.listing.add(symbol, self.native(symbol))


@define
class Composition:
    """A whole stack, composed."""

    plans: list[FeedPlan]
    sinks: list[tuple[SinkSpec, Sink, Callable[[], Sink]]]  #: and how each is made anew


def too_many(venue: str, endpoint: Endpoint) -> ConfigError:
    """Return the error for needing more connections than the venue allows."""
    allowed, carries = endpoint.max_connections, endpoint.max_subscriptions
    problem = (
        f"{venue} allows {allowed} connection{'s' if allowed != 1 else ''} to {endpoint.url} at a time,"
        f" all feeds together, with {carries} subscriptions each. Name fewer symbols or channels,"
        " or put them into one feed."
    )
    return ConfigError([Mistake("symbols", problem)])
