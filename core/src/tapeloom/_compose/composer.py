"""Composition of feeds and sinks: calls the hooks of every plugin that a stack names, once each.

This is the only module that knows the order in which plugins run. It returns plans; nothing is
started and no connection is opened.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from attrs import evolve

from tapeloom._config import FeedSpec, SinkSpec, Stack, StageSpec, structure
from tapeloom._gaps.gap_tracker import GapTracker
from tapeloom.errors import (
    ConfigError,
    LeftOut,
    Mistake,
    PluginBroken,
    PluginError,
    SymbolError,
    nearest,
)
from tapeloom.events import BY_TYPE, Event
from tapeloom.plugin import (
    Clock,
    Codec,
    Dial,
    Endpoint,
    Feed,
    FeedOutline,
    Frames,
    Relay,
    Sink,
    Source,
    Steering,
)

from .plan import (
    Composition,
    FeedPlan,
    HistoryQueue,
    SinkPlan,
    StageStep,
    Transport,
    no_dial,
    too_many_connections,
)
from .registry import Registry
from .stage_checks import check_stages

#: Calls a hook of a plugin, as `Registry.call` does, with the feed's hook wrappers around it.
CallHook = Callable[..., Any]
#: Returns the function that opens the connections of a feed, given that of the stack's transport plugin.
DialOf = Callable[[Feed, Dial | None], Dial]
#: The problem of a setting that is for sinks with a queue; in braces, the plugin.
_NO_QUEUE = "the sink {!r} is called with each batch and has no queue or spool. Remove this key."
#: Mistakes at these keys receive the place of their feed in the stack.
_FEED_KEYS = frozenset({"", "channels", "symbols", "market", "stages", "venue"})


def compose(
    stack: Stack,
    registry: Registry,
    clock: Clock,
    seed: int | None = None,
    mistakes: Sequence[Mistake] = (),
    dial: DialOf = lambda feed, plugin: plugin or no_dial,
) -> Composition:
    """Return the plans of the feeds and sinks of *stack* that have no mistakes, and all mistakes.

    *mistakes* are those already found in the stack; they are returned with the new ones. *seed* makes
    the feeds' random numbers repeatable. *dial* returns the function that opens a feed's connections.
    """
    composer = _Composer(stack, registry, clock, seed, mistakes, dial)
    plans = [composer.feed(index, spec) for index, spec in enumerate(stack.feeds)]
    sinks = [composer.sink(index, spec) for index, spec in enumerate(stack.sinks)]
    found = [plan for plan in plans if plan is not None]
    written = [sink for sink in sinks if sink is not None]
    return Composition(
        stack,
        tuple(found),
        tuple(written),
        composer.steering(found, written),
        tuple(composer.mistakes),
        tuple(composer.broken.values()),
    )


class _Composer:
    """Composes the feeds and sinks of one stack and collects mistakes instead of stopping at the first."""

    def __init__(
        self,
        stack: Stack,
        registry: Registry,
        clock: Clock,
        seed: int | None,
        mistakes: Sequence[Mistake],
        dial: DialOf,
    ) -> None:
        self._stack = stack
        self._registry = registry
        self._clock = clock
        self._seed = seed
        self._dial = dial
        self.mistakes = list(mistakes)
        #: Whether a feed could not be read, so that its plugins may not be loaded.
        self._lacks_feeds = any(
            mistake.place.startswith("feed") and not isinstance(mistake, LeftOut)
            for mistake in mistakes
        )
        self.broken: dict[str, PluginError] = {}
        self._has_relays = False  #: a relay may have any venue and symbol
        self._connections: Counter[str] = Counter()  # by URL

    def feed(self, index: int, spec: FeedSpec) -> FeedPlan | None:
        """Return the plan of one feed; None if it has mistakes, which are recorded."""
        stages = [self._stack.stages.get(name) or StageSpec(name, name) for name in spec.stages]
        names = [spec.venue, *(stage.use for stage in stages)]
        loaded = [self._load(name) for name in dict.fromkeys(names)]
        if not all(loaded):
            return None
        counters: Counter[str] = Counter()
        queries, gaps = HistoryQueue(), GapTracker(spec.venue, self._clock, counters)
        feed = Feed(
            spec.name,
            spec.venue,
            spec.market,
            list(spec.symbols),
            spec.channels,
            spec.stages,
            clock=self._clock,
            random=random.Random(self._seed),
            network=self._stack.network,
            counters=counters,
            query_history=queries,
            gaps=gaps,
        )
        # Every plugin of the feed may wrap the hooks of the others.
        call_hook = partial(self._registry.call, wrappers=tuple(dict.fromkeys(names)))
        try:
            return self._plan(call_hook, feed, spec, queries, gaps, stages, names, index)
        except PluginError as error:
            self.broken[error.plugin] = error
        except ConfigError as error:
            self.mistakes += [
                Mistake(f"feed[{index}].{mistake.place}".rstrip("."), mistake.problem)
                if mistake.place.partition("[")[0] in _FEED_KEYS
                else mistake
                for mistake in error.mistakes
            ]
        except SymbolError as error:
            self.mistakes.append(Mistake(f"feed[{index}].symbols", str(error)))
        return None

    def sink(self, index: int, spec: SinkSpec) -> SinkPlan | None:
        """Return the plan of one sink; None if it has mistakes, which are recorded."""
        if not self._load(spec.use):
            return None
        before, place = len(self.mistakes), f"sink[{index}]"
        self._check_types(index, spec)
        settings = self.settings(spec.use, spec.table, place)
        if not self._has_relays:
            feeds = self._stack.feeds
            self._check_selected(f"{place}.venues", spec.venues, [feed.venue for feed in feeds])
            symbols = [symbol for feed in feeds for symbol in feed.symbols]
            self._check_selected(f"{place}.symbols", spec.symbols, symbols)
        if len(self.mistakes) > before:
            return None
        try:
            sink: Sink | None = self._registry.call(spec.use, "sink", settings=settings)
        except ConfigError as error:
            self.mistakes += [
                Mistake(f"{place}.{mistake.place}".rstrip("."), mistake.problem)
                for mistake in error.mistakes
            ]
            return None
        problem = f"the plugin {spec.use!r} is not a sink: it does not implement `sink`"
        if sink is None:
            self.mistakes.append(Mistake(f"{place}.use", problem))
            return None
        takes = "observe" if hasattr(sink, "observe") else "write"
        missing = [name for name in ("open", takes, "close") if not hasattr(sink, name)]
        if missing:
            problem = f"the sink of plugin {spec.use!r} has no {' and no '.join(missing)}"
            self.broken[spec.use] = PluginBroken(
                spec.use, f"{problem}. This is a defect of the plugin."
            )
            return None
        for key in ("queue", "spool", "max_batch", "max_batch_delay") if takes == "observe" else ():
            if getattr(spec, key) != getattr(SinkSpec(spec.use), key):
                self.mistakes.append(Mistake(f"{place}.{key}", _NO_QUEUE.format(spec.use)))
        return SinkPlan(spec, sink)

    def steering(self, plans: Sequence[FeedPlan], sinks: Sequence[SinkPlan]) -> Steering | None:
        """Return what decides which symbols are streamed; None without one, or if it has mistakes."""
        spec, before = self._stack.cluster, len(self.mistakes)
        if spec is None or not self._load(spec.use):
            return None
        settings = self.settings(spec.use, spec.table, "cluster")
        if len(self.mistakes) > before or self.broken:
            return None
        feeds = [
            FeedOutline(
                plan.feed.name, plan.feed.venue, tuple(plan.feed.symbols), plan.feed.channels,
                plan.spec.stages, plan.endpoints, plan.unidentified,
            )
            for plan in plans
        ]  # fmt: skip
        by_name = {plan.spec.name: plan.sink for plan in sinks}
        try:
            steering: Steering | None = self._registry.call(
                spec.use, "steer", settings=settings, feeds=feeds, sinks=by_name
            )
        except ConfigError as error:
            self.mistakes += [Mistake(f"cluster.{m.place}", m.problem) for m in error.mistakes]
            return None
        if steering is None:
            problem = f"the plugin {spec.use!r} forms no cluster: it does not implement `steer`"
            self.mistakes.append(Mistake("cluster.use", problem))
        return steering

    def _check_selected(self, place: str, names: Sequence[str], known: Sequence[str]) -> None:
        """Record a mistake for each name that no feed has."""
        for index, name in enumerate(names):
            if name not in known:
                hint = nearest(name, known) or f" The feeds have {', '.join(dict.fromkeys(known))}."
                self.mistakes.append(Mistake(f"{place}[{index}]", f"no feed has {name!r}.{hint}"))

    def _check_types(self, index: int, spec: SinkSpec) -> None:
        """Record the types of a sink that no event class has; the feeds' plugins, which have some, are loaded."""
        if self.broken or self._lacks_feeds:
            return  # a plugin that is not loaded may define the type
        for position, name in enumerate(spec.types):
            if name not in BY_TYPE:
                hint = nearest(name, BY_TYPE) or f" Known: {', '.join(sorted(BY_TYPE))}"
                problem = f"{name!r} is not an event type.{hint}"
                self.mistakes.append(Mistake(f"sink[{index}].types[{position}]", problem))

    def _plan(
        self,
        call_hook: CallHook,
        feed: Feed,
        spec: FeedSpec,
        queries: HistoryQueue,
        gaps: GapTracker,
        stages: list[StageSpec],
        names: Sequence[str],
        index: int,
    ) -> FeedPlan | None:
        before = len(self.mistakes)
        table = self._stack.venues.get(spec.venue, {})
        feed.settings = self.settings(spec.venue, table, f"venue.{spec.venue}")
        steps = [step for stage in stages for step in self._steps(call_hook, feed, stage)]
        if len(self.mistakes) > before:
            return None
        left_out = [
            mistake
            for mistake in self.mistakes
            if isinstance(mistake, LeftOut) and mistake.place.startswith(f"feed[{index}].")
        ]
        source = self._connect(call_hook, feed, spec, left_out)
        if left_out and not isinstance(source, Relay):
            return None
        if wrong := [*check_stages(feed.channels, steps)]:
            raise ConfigError(wrong)
        codec: Codec | None = call_hook(spec.venue, "subscribe", feed=feed)
        endpoints: tuple[Endpoint, ...] = ()
        if not isinstance(source, Source):
            endpoints, source = _endpoints(spec.venue, source), None
            if codec is None:
                problem = f"plugin {spec.venue!r} returns endpoints from `connect` but does not implement `subscribe`."
                raise PluginBroken(spec.venue, f"{problem} This is a defect of the plugin.")
        transport = Transport(self._dial(feed, self._transport(feed)))
        plan = FeedPlan(
            spec,
            feed,
            queries,
            gaps,
            call_hook(spec.venue, "parse", feed=feed) or _no_frames,
            tuple(steps),
            endpoints,
            source,
            codec if source is None else None,
            codec.native if codec is not None else None,
            call_hook(spec.venue, "history", feed=feed),
            transport,
            self._registry.wrapped(transport, "transport", names, feed=feed),
        )
        plan.add_symbols(feed.symbols)
        plan.subscriptions(feed.symbols)  # raises ConfigError for a channel that is not served
        for endpoint, _ in plan.connections(feed.symbols):
            self._connections[endpoint.url] += 1
            limit = endpoint.max_connections
            if limit is not None and self._connections[endpoint.url] == limit + 1:
                raise too_many_connections(spec.venue, endpoint)
        return plan

    def _connect(
        self, call_hook: CallHook, feed: Feed, spec: FeedSpec, left_out: Sequence[Mistake]
    ) -> Any:
        """Return what `connect` returns; None if it raises because of what was *left_out*.

        That a relay leaves out symbols or channels is no mistake.
        """
        try:
            source = call_hook(spec.venue, "connect", feed=feed)
        except SymbolError:
            if left_out:
                return None
            raise
        except ConfigError as error:
            if left_out and not any(m.place.startswith("venue") for m in error.mistakes):
                return None
            raise
        if source is None:
            problem = f"the plugin {spec.venue!r} is not a venue: its `connect` returns nothing"
            raise ConfigError([Mistake("venue", problem)])
        if isinstance(source, Relay):
            self._has_relays = True
            self.mistakes = [mistake for mistake in self.mistakes if mistake not in left_out]
        return source

    def _steps(self, call_hook: CallHook, feed: Feed, spec: StageSpec) -> list[StageStep]:
        before = len(self.mistakes)
        settings = self.settings(spec.use, spec.table, f"stage.{spec.name}")
        if len(self.mistakes) > before:
            return []
        feed.stage_settings[spec.use] = settings
        stage_feed = evolve(feed, settings=settings)
        steps = [
            StageStep(spec.name, stage, build, spec.on_error, settings, hook == "validate")
            for hook in ("validate", "aggregate")
            if (stage := (build := partial(call_hook, spec.use, hook, feed=stage_feed))())
            is not None
        ]
        if not steps and not self._registry.wraps(spec.use):
            problem = f"the plugin {spec.use!r} is not a stage: it validates, aggregates and wraps nothing"
            self.mistakes.append(Mistake(f"stage.{spec.name}", problem))
        return steps

    def _transport(self, feed: Feed) -> Dial | None:
        """Return the dial function of the transport plugin that the stack names; None if it names none."""
        name = self._stack.network.transport
        if not name:
            return None
        self._registry.load(name)
        dial: Dial | None = self._registry.call(name, "transport", feed=feed)
        if dial is None:
            self.mistakes.append(
                Mistake("network.transport", f"the plugin {name!r} does not implement `transport`")
            )
        return dial

    def settings(self, plugin: str, table: Any, place: str) -> Any:
        """Return *table* as the plugin's settings class; None if the plugin has none or it has mistakes."""
        cls = self._registry.call(plugin, "settings")
        if cls is None:
            self.mistakes += [
                Mistake(f"{place}.{key}", f"the plugin {plugin!r} takes no settings")
                for key in table
            ]
            return None
        folder = Path(self._stack.source).parent
        settings, mistakes = structure(cls, table, place, folder=folder)
        self.mistakes += mistakes
        if settings is None:
            return None if mistakes else cls()
        return settings

    def _load(self, name: str) -> bool:
        if name in self.broken:
            return False
        try:
            self._registry.load(name)
        except PluginError as error:
            self.broken[name] = error
            return False
        return True


def _endpoints(venue: str, result: Any) -> tuple[Endpoint, ...]:
    """Return the endpoints that `connect` returned. Raises PluginBroken for any other result."""
    if isinstance(result, list | tuple) and all(isinstance(item, Endpoint) for item in result):
        return tuple(result)
    raise PluginBroken(
        venue,
        f"plugin {venue!r}: `connect` returned {result!r}, expected a list of Endpoint or a Source."
        " This is a defect of the plugin.",
    )


def _no_frames(frames: Frames) -> list[Event]:
    return []
