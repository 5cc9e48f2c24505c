"""From hooks to one plain function for each feed: the only room that knows in which order plugins run.

The hooks of the plugins that a stack names are called here, once. What comes back runs.
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
from tapeloom.errors import ConfigError, Mistake, PluginBroken, PluginError, SymbolError
from tapeloom.events import Event
from tapeloom.plugin import Clock, Codec, Dial, Endpoint, Feed, Frames, Sink, Source

from .plan import Composition, FeedPlan, HistoryQueue, StageStep, Transport, too_many
from .registry import Registry

Ask = Callable[..., Any]


def compose(
    stack: Stack,
    registry: Registry,
    clock: Clock,
    seed: int | None = None,
    mistakes: Sequence[Mistake] = (),
) -> Composition:
    """Call the hooks of every plugin that *stack* names; return its feeds and sinks, ready to run.

    *mistakes* are those already found in it: they are raised together with what is found here.

    Raises ConfigError with all mistakes of all plugin tables, or the PluginError where one plugin
    is all that is wrong.
    """
    composer = _Composer(stack, registry, clock, seed, mistakes)
    plans = [composer.feed(place, spec) for place, spec in enumerate(stack.feeds)]
    sinks = [composer.sink(place, spec) for place, spec in enumerate(stack.sinks)]
    composer.finish()
    return Composition(
        [plan for plan in plans if plan is not None], [sink for sink in sinks if sink is not None]
    )


class _Composer:
    """Composes the feeds of one stack, and collects what is wrong instead of stopping at it."""

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
        self._mistakes = list(mistakes)
        self._broken: dict[str, PluginError] = {}
        self._connections: Counter[str] = Counter()  # by address

    def finish(self) -> None:
        """Raise what was found to be wrong, all at once."""
        broken = list(self._broken.values())
        if len(broken) == 1 and not self._mistakes:
            raise broken[0]
        mistakes = [*self._mistakes, *(Mistake("", str(error)) for error in broken)]
        if mistakes:
            raise self._stack.error(mistakes)

    def feed(self, place: int, spec: FeedSpec) -> FeedPlan | None:
        """Compose one feed; None where something about it is wrong."""
        stages = [self._stack.stages.get(name) or StageSpec(name, name) for name in spec.stages]
        names = [spec.venue, *(stage.use for stage in stages)]
        loaded = [self._load(name) for name in dict.fromkeys(names)]
        if not all(loaded):
            return None
        wants = HistoryQueue()
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
            query_history=wants,
        )
        # Every plugin of the feed may wrap what another one answers.
        ask = partial(self._registry.call, wrappers=tuple(dict.fromkeys(names)))
        try:
            return self._plan(ask, feed, spec, wants, stages, names)
        except PluginError as error:
            self._broken[error.plugin] = error
        except ConfigError as error:
            self._mistakes += [
                Mistake(f"feed[{place}].{mistake.place}", mistake.problem)
                if mistake.place.partition("[")[0] in _FEED_KEYS
                else mistake
                for mistake in error.mistakes
            ]
        except SymbolError as error:
            self._mistakes.append(Mistake(f"feed[{place}].symbols", str(error)))
        return None

    def sink(self, place: int, spec: SinkSpec) -> tuple[SinkSpec, Sink, Callable[[], Sink]] | None:
        """Compose one sink; None where something about it is wrong."""
        if not self._load(spec.use):
            return None
        before = len(self._mistakes)
        settings = self.settings(spec.use, spec.table, f"sink[{place}]")
        if len(self._mistakes) > before:
            return None
        build = partial(self._registry.call, spec.use, "sink", settings=settings)
        sink = build()
        if sink is None:
            self._mistakes.append(
                Mistake(f"sink[{place}].use", f"the plugin {spec.use!r} is no sink")
            )
            return None
        return spec, sink, build

    def _plan(
        self,
        ask: Ask,
        feed: Feed,
        spec: FeedSpec,
        wants: HistoryQueue,
        stages: list[StageSpec],
        names: Sequence[str],
    ) -> FeedPlan | None:
        before = len(self._mistakes)
        table = self._stack.venues.get(spec.venue, {})
        feed.settings = self.settings(spec.venue, table, f"venue.{spec.venue}")
        steps = [step for stage in stages for step in self._steps(ask, feed, stage)]
        if len(self._mistakes) > before:
            return None
        source = ask(spec.venue, "connect", feed=feed)
        if source is None:
            problem = (
                f"the plugin {spec.venue!r} is no venue: it does not say where data comes from"
            )
            raise ConfigError([Mistake("venue", problem)])
        transport = Transport(self._transport(feed))
        plan = FeedPlan(
            spec,
            feed,
            wants,
            ask(spec.venue, "parse", feed=feed) or _no_frames,
            tuple(steps),
            history=ask(spec.venue, "history", feed=feed),
            transport=transport,
            dial=self._registry.wrapped(transport, "transport", names, feed=feed),
        )
        if isinstance(source, Source):
            plan.source = source
            codec: Codec | None = ask(spec.venue, "subscribe", feed=feed)
            plan.native = codec.native if codec is not None else None
            plan.name(feed.symbols)
            plan.subscriptions(feed.symbols)
            return plan
        plan.endpoints = _endpoints(spec.venue, source)
        plan.codec = ask(spec.venue, "subscribe", feed=feed)
        if plan.codec is None:
            problem = f"plugin {spec.venue!r} returns endpoints from `connect` and no `subscribe`."
            raise PluginBroken(spec.venue, f"{problem} This is a defect of the plugin.")
        plan.native = plan.codec.native
        plan.name(feed.symbols)
        for endpoint, _ in plan.connections(feed.symbols):
            self._connections[endpoint.url] += 1
            allowed = endpoint.max_connections
            if allowed is not None and self._connections[endpoint.url] == allowed + 1:
                raise too_many(spec.venue, endpoint)
        return plan

    def _steps(self, ask: Ask, feed: Feed, spec: StageSpec) -> list[StageStep]:
        before = len(self._mistakes)
        settings = self.settings(spec.use, spec.table, f"stage.{spec.name}")
        if len(self._mistakes) > before:
            return []
        feed.stage_settings[spec.use] = settings
        own = evolve(feed, settings=settings)
        found = [
            StageStep(spec.name, stage, build, spec.on_error)
            for hook in ("validate", "aggregate")
            if (stage := (build := partial(ask, spec.use, hook, feed=own))()) is not None
        ]
        if not found and not self._registry.wraps(spec.use):
            problem = (
                f"the plugin {spec.use!r} is no stage: it validates, aggregates and wraps nothing"
            )
            self._mistakes.append(Mistake(f"stage.{spec.name}", problem))
        return found

    def _transport(self, feed: Feed) -> Dial | None:
        """Return another way to dial, where the stack names one."""
        name = self._stack.network.transport
        if not name:
            return None
        self._registry.load(name)
        dial: Dial | None = self._registry.call(name, "transport", feed=feed)
        if dial is None:
            self._mistakes.append(
                Mistake("network.transport", f"the plugin {name!r} offers no transport")
            )
        return dial

    def settings(self, plugin: str, table: Any, place: str) -> Any:
        """Return a plugin's table as that plugin's own class; None where it has none."""
        cls = self._registry.call(plugin, "settings")
        if cls is None:
            self._mistakes += [
                Mistake(f"{place}.{key}", f"the plugin {plugin!r} has no settings") for key in table
            ]
            return None
        folder = Path(self._stack.source).parent
        settings, mistakes = structure(cls, table, place, folder=folder)
        self._mistakes += mistakes
        if settings is None:
            return None if mistakes else cls()
        return settings

    def _load(self, name: str) -> bool:
        if name in self._broken:
            return False
        try:
            self._registry.load(name)
        except PluginError as error:
            self._broken[name] = error
            return False
        return True


_FEED_KEYS = frozenset({"channels", "symbols", "market", "venue"})


def _endpoints(venue: str, answer: Any) -> tuple[Endpoint, ...]:
    """Return the endpoints that `connect` answered with."""
    if isinstance(answer, list | tuple) and all(isinstance(one, Endpoint) for one in answer):
        return tuple(answer)
    raise PluginBroken(
        venue,
        f"plugin {venue!r}: `connect` returned {answer!r}, expected a list of Endpoint or a Source."
        " This is a defect of the plugin.",
    )


def _no_frames(frames: Frames) -> list[Event]:
    return []
