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
from tapeloom.errors import ConfigError, Mistake, PluginBroken, PluginError, SymbolError
from tapeloom.events import Event
from tapeloom.plugin import Clock, Codec, Dial, Endpoint, Feed, Frames, Sink, Source

from .plan import Composition, FeedPlan, HistoryQueue, StageStep, Transport, too_many_connections
from .registry import Registry

#: Calls a hook of a plugin, as `Registry.call` does, with the feed's hook wrappers around it.
CallHook = Callable[..., Any]
#: Mistakes at these keys receive the place of their feed in the stack.
_FEED_KEYS = frozenset({"channels", "symbols", "market", "venue"})


def compose(
    stack: Stack,
    registry: Registry,
    clock: Clock,
    seed: int | None = None,
    mistakes: Sequence[Mistake] = (),
) -> Composition:
    """Return the plans of the feeds and sinks of *stack* that have no mistakes, and all mistakes.

    *mistakes* are those already found in the stack; they are returned with the new ones. *seed* makes
    the feeds' random numbers repeatable.
    """
    composer = _Composer(stack, registry, clock, seed, mistakes)
    plans = [composer.feed(index, spec) for index, spec in enumerate(stack.feeds)]
    sinks = [composer.sink(index, spec) for index, spec in enumerate(stack.sinks)]
    return Composition(
        stack,
        tuple(plan for plan in plans if plan is not None),
        tuple(sink for sink in sinks if sink is not None),
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
    ) -> None:
        self._stack = stack
        self._registry = registry
        self._clock = clock
        self._seed = seed
        self.mistakes = list(mistakes)
        self.broken: dict[str, PluginError] = {}
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
            return self._plan(call_hook, feed, spec, queries, gaps, stages, names)
        except PluginError as error:
            self.broken[error.plugin] = error
        except ConfigError as error:
            self.mistakes += [
                Mistake(f"feed[{index}].{mistake.place}", mistake.problem)
                if mistake.place.partition("[")[0] in _FEED_KEYS
                else mistake
                for mistake in error.mistakes
            ]
        except SymbolError as error:
            self.mistakes.append(Mistake(f"feed[{index}].symbols", str(error)))
        return None

    def sink(self, index: int, spec: SinkSpec) -> tuple[SinkSpec, Sink, Callable[[], Sink]] | None:
        """Return one sink and a function that makes a new instance; None if it has mistakes."""
        if not self._load(spec.use):
            return None
        before = len(self.mistakes)
        settings = self.settings(spec.use, spec.table, f"sink[{index}]")
        if len(self.mistakes) > before:
            return None
        build = partial(self._registry.call, spec.use, "sink", settings=settings)
        sink = build()
        if sink is None:
            self.mistakes.append(
                Mistake(
                    f"sink[{index}].use",
                    f"the plugin {spec.use!r} is not a sink: it does not implement `sink`",
                )
            )
            return None
        return spec, sink, build

    def _plan(
        self,
        call_hook: CallHook,
        feed: Feed,
        spec: FeedSpec,
        queries: HistoryQueue,
        gaps: GapTracker,
        stages: list[StageSpec],
        names: Sequence[str],
    ) -> FeedPlan | None:
        before = len(self.mistakes)
        table = self._stack.venues.get(spec.venue, {})
        feed.settings = self.settings(spec.venue, table, f"venue.{spec.venue}")
        steps = [step for stage in stages for step in self._steps(call_hook, feed, stage)]
        if len(self.mistakes) > before:
            return None
        source = call_hook(spec.venue, "connect", feed=feed)
        if source is None:
            problem = f"the plugin {spec.venue!r} is not a venue: its `connect` returns nothing"
            raise ConfigError([Mistake("venue", problem)])
        codec: Codec | None = call_hook(spec.venue, "subscribe", feed=feed)
        endpoints: tuple[Endpoint, ...] = ()
        if not isinstance(source, Source):
            endpoints, source = _endpoints(spec.venue, source), None
            if codec is None:
                problem = f"plugin {spec.venue!r} returns endpoints from `connect` but does not implement `subscribe`."
                raise PluginBroken(spec.venue, f"{problem} This is a defect of the plugin.")
        transport = Transport(self._transport(feed))
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

    def _steps(self, call_hook: CallHook, feed: Feed, spec: StageSpec) -> list[StageStep]:
        before = len(self.mistakes)
        settings = self.settings(spec.use, spec.table, f"stage.{spec.name}")
        if len(self.mistakes) > before:
            return []
        feed.stage_settings[spec.use] = settings
        stage_feed = evolve(feed, settings=settings)
        steps = [
            StageStep(spec.name, stage, build, spec.on_error)
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
