"""The plans of the feeds and sinks of a stack. The composer builds them; `_stream` runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from attrs import Factory, evolve, frozen

from tapeloom._config import FeedSpec, SinkSpec, Stack
from tapeloom._gaps.gap_tracker import GapTracker
from tapeloom._runtime.taps import FactLog
from tapeloom.errors import ConfigError, Mistake, PluginError
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
    Relay,
    Sink,
    Source,
    Stage,
    Steering,
    Subscription,
    channel_parts,
)

from .hook_checks import BACKENDS


@frozen
class StageStep:
    """One stage of a feed's pipeline."""

    name: str
    stage: Stage
    build: Callable[..., Stage]  #: makes a new instance, for a restart; for another feed as `feed`
    on_error: str = "restart"  #: what happens when it raises, as in `StageSpec`
    settings: Any = None  #: as the class of its plugin
    validates: bool = False  #: whether the hook `validate` returned it

    def of(self, feed: Feed) -> StageStep:
        """Return the same stage for another feed."""
        build = partial(self.build, feed=evolve(feed, settings=self.settings))
        return evolve(self, stage=build(), build=build)


class HistoryQueue:
    """Passes the history queries of stages to a listener; keeps those made before one is set."""

    def __init__(self) -> None:
        self._pending: list[HistoryQuery] = []
        self._listener: Callable[[HistoryQuery], None] = self._pending.append

    def __call__(self, query: HistoryQuery) -> None:
        self._listener(query)

    def listen(self, listener: Callable[[HistoryQuery], None]) -> None:
        """Set *listener* and call it with every pending query, then with every new one."""
        self._listener = listener
        for query in self._pending:
            listener(query)
        self._pending.clear()


def no_dial(endpoint: Endpoint) -> AbstractAsyncContextManager[Link]:
    """Raise RuntimeError: the feed was composed to be looked at, not to run."""
    raise RuntimeError(f"composed without a network: {endpoint.url} cannot be opened")


@frozen(eq=False)
class Transport:
    """Opens connections with `base_dial`; its `transport` hook lets plugins wrap that function."""

    base_dial: Dial

    @property
    def backends(self) -> frozenset[str]:
        """The event loops that `base_dial` supports."""
        return frozenset(getattr(self.base_dial, "backends", BACKENDS))

    def dial(self, endpoint: Endpoint) -> AbstractAsyncContextManager[Link]:
        """Open a connection to *endpoint* with `base_dial`."""
        return self.base_dial(endpoint)

    @hookimpl
    def transport(self) -> Dial:
        """Implement the hook `transport`: return `dial`, for plugins to wrap."""
        return self.dial


@frozen(eq=False)
class FeedPlan:
    """Everything needed to run one feed. Nothing of it has been started."""

    spec: FeedSpec
    feed: Feed
    queries: HistoryQueue
    gaps: GapTracker
    parse: Parse
    steps: tuple[StageStep, ...]
    endpoints: tuple[Endpoint, ...] = ()
    source: Source | None = None
    codec: Codec | None = None
    native: Callable[[str], str] | None = None  #: maps a unified symbol to the venue's name
    history: History | None = None
    transport: Transport = Transport(no_dial)
    #: Opens a connection: `transport.dial`, wrapped by plugins.
    dial: Dial = Factory(lambda self: self.transport.dial, takes_self=True)
    facts: FactLog = Factory(lambda self: FactLog(self.feed.clock), takes_self=True)

    @property
    def relay(self) -> Relay | None:
        """The source, if it relays events of other streams."""
        return self.source if isinstance(self.source, Relay) else None

    def subscriptions(self, symbols: Sequence[str]) -> dict[int, list[Subscription]]:
        """Return the subscriptions for *symbols*, by the index of the endpoint that serves them.

        Raises ConfigError if no endpoint serves a channel.
        """
        by_endpoint: dict[int, list[Subscription]] = {}
        for channel in self.feed.channels:
            subscriptions = by_endpoint.setdefault(self._serving_index(channel), [])
            subscriptions += [Subscription(symbol, channel) for symbol in symbols]
        return by_endpoint if self.endpoints else {}

    def _serving_index(self, channel: str) -> int:
        """Return the index of the first endpoint, or source, that serves *channel*."""
        name, _ = channel_parts(channel)
        origins = self.endpoints or (self.source,)
        served = [frozenset[str]() if origin is None else origin.channels for origin in origins]
        for index, channels in enumerate(served):
            if not channels or name in channels:
                return index
        known = ", ".join(sorted(frozenset[str]().union(*served)))
        problem = f"{self.feed.venue} has no channel {name!r} here; it has {known}"
        raise ConfigError([Mistake("channels", problem)])

    @property
    def unidentified(self) -> tuple[str, ...]:
        """The channels of the feed whose events two processes cannot recognise as the same."""
        origins: Sequence[Any] = self.endpoints or (self.source,)
        return tuple(
            channel
            for channel in self.feed.channels
            if channel_parts(channel)[0]
            in getattr(origins[self._serving_index(channel)], "unidentified", ())
        )

    def connections(self, symbols: Sequence[str]) -> list[tuple[Endpoint, list[Subscription]]]:
        """Return the connections for *symbols*, each with at most `max_subscriptions` subscriptions."""
        return [
            (endpoint := self.endpoints[index], wanted[start : start + endpoint.max_subscriptions])
            for index, wanted in sorted(self.subscriptions(symbols).items())
            for start in range(0, len(wanted), self.endpoints[index].max_subscriptions)
        ]

    def add_symbols(self, symbols: Sequence[str]) -> None:
        """Add *symbols* to the listing, with the venue's names for them.

        Raises SymbolError if the market cannot have such a symbol.
        """
        if self.native is None:
            return
        listing = self.feed.listing
        for symbol in symbols:
            if symbol not in listing.native:
                listed = listing.instruments.get(symbol)
                listing.add(symbol, listed.native if listed else self.native(symbol))

    def record_symbols(self, unlisted: Iterable[str] = ()) -> None:
        """Record the feed's symbols as a fact, and those that were removed from the listing."""
        now, symbols = self.feed.clock.time_ns(), self.feed.symbols
        self.facts.record(now, "symbols", of=[*symbols], unlisted=[*unlisted])


@frozen(eq=False)
class SinkPlan:
    """A sink as the stack describes it, and the object that its plugin made."""

    spec: SinkSpec
    sink: Sink

    @property
    def backends(self) -> frozenset[str]:
        """The event loops that it works on."""
        return getattr(self.sink, "backends", frozenset({"asyncio", "trio"}))

    @property
    def max_batch_delay(self) -> float:
        """For how many seconds events are collected to be written together."""
        default: float = getattr(self.sink, "max_batch_delay", 0.05)
        return default if self.spec.max_batch_delay is None else self.spec.max_batch_delay


@frozen(eq=False)
class Composition:
    """The plans of a stack, without the feeds and sinks that have mistakes."""

    stack: Stack
    plans: tuple[FeedPlan, ...]
    sinks: tuple[SinkPlan, ...]
    steering: Steering | None = None  #: what the stack's `[cluster]` makes
    mistakes: tuple[Mistake, ...] = ()  #: those in the stack
    broken: tuple[PluginError, ...] = ()  #: the errors of plugins that are missing or have a defect

    def or_raise(self) -> Composition:
        """Return it if nothing is wrong.

        Raises ConfigError with all mistakes, or the PluginError itself if a single broken plugin is the
        only problem.
        """
        if len(self.broken) == 1 and not self.mistakes:
            raise self.broken[0]
        mistakes = [*self.mistakes, *(Mistake("", str(error)) for error in self.broken)]
        if mistakes:
            raise self.stack.error(mistakes)
        return self


def too_many_connections(venue: str, endpoint: Endpoint) -> ConfigError:
    """Return the error for a feed that needs more connections than the venue allows."""
    allowed, capacity = endpoint.max_connections, endpoint.max_subscriptions
    problem = (
        f"{venue} allows {allowed} connection{'s' if allowed != 1 else ''} to {endpoint.url} at a time,"
        f" all feeds together, with {capacity} subscriptions each. Name fewer symbols or channels,"
        " or put them into one feed."
    )
    return ConfigError([Mistake("symbols", problem)])
