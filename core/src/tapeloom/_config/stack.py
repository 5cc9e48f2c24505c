"""The stack as objects: what stack.toml says, and what Python code may say instead.

Every class checks what it is given, from a file or from code, and raises ConfigError with all that is
wrong with one of its fields. The places in it are relative to the object.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import attrs

from tapeloom.errors import ConfigError, Mistake
from tapeloom.events import QueuePolicy
from tapeloom.plugin import feeds

from . import checks
from .masking import masked_table, masked_url
from .places import Places

Backend = Literal["asyncio", "trio"]
OnError = Literal["restart", "disable", "end"]
OnSinkError = Literal["continue", "restart", "disable"]


@attrs.frozen
class QueueSpec:
    """A queue: at most `size` events, and what happens when it is full.

    ``block`` makes the reader wait · ``drop_oldest`` loses the oldest, in a `Gap` · ``conflate``
    keeps the latest of each symbol · ``error`` ends the consumer with QueueOverflow.
    """

    size: int = attrs.field(default=10_000, validator=checks.at_least_one)
    policy: QueuePolicy = attrs.field(default="block", validator=checks.one_of(QueuePolicy))


@attrs.frozen
class FeedSpec:
    """One venue, its symbols, channels and stages, as ``[[feed]]`` says.

    Symbols are unified; an alias such as ``BTC-PERP`` is resolved. A channel is one of `CHANNELS`, or
    a word of the venue's own that begins with ``x-``, each with an optional parameter: ``klines:1m``.
    `name` is empty until the feed stands in a `Stack`. `max_attempts` is how often in a row a connection
    may fail before it is given up; None: it never is. For `max_batch_delay` seconds at most, events
    may be held back so that more of them come together.
    """

    venue: str = attrs.field(validator=checks.filled)
    symbols: tuple[str, ...] = attrs.field(converter=checks.symbols)
    channels: tuple[str, ...] = attrs.field(converter=checks.channels)
    name: str = ""
    market: str = ""
    stages: tuple[str, ...] = attrs.field(default=(), converter=checks.stages)
    max_attempts: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(checks.at_least_one)
    )
    max_batch_delay: float = attrs.field(default=0.0, validator=checks.at_most_a_second)


@attrs.frozen
class StageSpec:
    """A stage: its name in the stack, the plugin it uses, and that plugin's settings.

    `on_error` says what happens when it raises: ``restart`` makes it anew, ``disable`` leaves it out,
    ``end`` ends the feed.
    """

    name: str = attrs.field(validator=checks.filled)
    use: str = attrs.field(
        default=attrs.Factory(lambda self: self.name, takes_self=True), validator=checks.filled
    )
    table: Mapping[str, Any] = attrs.field(factory=dict, repr=masked_table)
    on_error: OnError = attrs.field(default="restart", validator=checks.one_of(OnError))


@attrs.frozen
class SinkSpec:
    """A sink: the plugin it uses, the types of event it takes (none: all), its queue, its settings.

    `on_error` says what happens when it raises: ``continue`` goes on with the next batch,
    ``restart`` makes it anew for that, ``disable`` ends it.
    """

    use: str = attrs.field(validator=checks.filled)
    name: str = ""
    types: tuple[str, ...] = attrs.field(default=(), converter=checks.types)
    queue: QueueSpec = attrs.field(factory=QueueSpec)
    table: Mapping[str, Any] = attrs.field(factory=dict, repr=masked_table)
    on_error: OnSinkError = attrs.field(default="continue", validator=checks.one_of(OnSinkError))


@attrs.frozen
class Network(feeds.Network):
    """How every connection is made: `proxy` is an address, `ca` a PEM file with trusted roots.

    A proxy's address that holds a password is read from a secret: ``proxy = { env = "PROXY" }``.
    `transport` names a plugin that dials in place of core. `compression` tells venues that their
    messages may come compressed: less to transfer, more to do.
    """

    proxy: str | None = attrs.field(default=None, converter=checks.proxy, repr=masked_url)
    ca: str | None = None
    transport: str = ""
    compression: bool = False


@attrs.frozen
class FlightSpec:
    """The flight recorder: what came in during the last `seconds`, in at most `size` bytes of memory.

    `folder` is where it is written when something goes wrong; empty: nowhere. The latest `keep`
    bundles of each feed are left there.
    """

    folder: str = ""
    seconds: float = attrs.field(default=30.0, validator=checks.positive)
    size: int = attrs.field(default=1 << 20, validator=checks.at_least_one)
    keep: int = attrs.field(default=20, validator=checks.at_least_one)


@attrs.frozen
class Process:
    """What the stream may change in the process that it runs in.

    With `gc_threshold` the garbage collector leaves alone what is there when the stream opens, and
    looks only after so many new objects; 0: it stays as it is.
    """

    gc_threshold: int = attrs.field(default=0, validator=checks.not_negative)


#: The keys of a stage's table that are not the plugin's own.
STAGE = frozenset({"use", "on_error"})


def _feeds(value: Iterable[FeedSpec]) -> tuple[FeedSpec, ...]:
    def wishes(feed: FeedSpec) -> list[str]:
        return [feed.venue, f"{feed.venue}-{feed.market}"] if feed.market else [feed.venue]

    return checks.named(value, "feed", wishes)


def _sinks(value: Iterable[SinkSpec]) -> tuple[SinkSpec, ...]:
    return checks.named(value, "sink", lambda sink: [sink.use])


def _stage_specs(value: Mapping[str, StageSpec | Mapping[str, Any]]) -> dict[str, StageSpec]:
    """Read tables too, as they stand under ``[stage.<name>]``."""
    return {
        name: spec
        if isinstance(spec, StageSpec)
        else StageSpec(
            name,
            table={key: one for key, one in spec.items() if key not in STAGE},
            **{key: one for key, one in spec.items() if key in STAGE},
        )
        for name, spec in value.items()
    }


@attrs.frozen
class Stack:
    """A whole stack. `source` is where it was read, as messages name it.

    Every stage that a feed names stands in `stages`, and every venue in `venues`, with an empty table
    where nothing was said about it.
    """

    feeds: tuple[FeedSpec, ...] = attrs.field(default=(), converter=_feeds)
    stages: Mapping[str, StageSpec] = attrs.field(factory=dict, converter=_stage_specs)
    venues: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict, repr=masked_table)
    sinks: tuple[SinkSpec, ...] = attrs.field(default=(), converter=_sinks)
    queue: QueueSpec = attrs.field(factory=QueueSpec)
    network: Network = attrs.field(factory=Network)
    flight: FlightSpec = attrs.field(factory=FlightSpec)
    process: Process = attrs.field(factory=Process)
    backend: Backend = attrs.field(default="asyncio", validator=checks.one_of(Backend))
    source: str = "stack"
    places: Places = attrs.field(factory=Places, eq=False, repr=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        stages = {name: StageSpec(name) for feed in self.feeds for name in feed.stages}
        venues: dict[str, Mapping[str, Any]] = {feed.venue: {} for feed in self.feeds}
        object.__setattr__(self, "stages", {**stages, **self.stages})
        object.__setattr__(self, "venues", {**venues, **self.venues})

    def error(self, mistakes: Iterable[Mistake]) -> ConfigError:
        """Return all *mistakes* as one error: in the order of the file, with lines, each once."""
        return ConfigError(self.places.locate(dict.fromkeys(mistakes)), self.source)
