"""The classes of a stack. They are read from stack.toml, or Python code builds them.

Every class checks its values, from a file or from code, and raises ConfigError with all mistakes of
one field. The places of these mistakes are relative to the object. The comment above each field
describes the key of the same name in the stack file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import attrs

from tapeloom.errors import ConfigError, Mistake
from tapeloom.events import QueuePolicy
from tapeloom.plugin import feeds

from . import validators
from .masking import masked_table, masked_url
from .places import Places

Backend = Literal["asyncio", "trio"]
OnError = Literal["restart", "disable", "end"]

#: The keys of a stage's table that belong to core; all others are the plugin's settings.
STAGE_KEYS = frozenset({"use", "on_error"})


@attrs.frozen
class QueueSpec:
    """The queue of events in front of one consumer."""

    #: Maximum number of events that wait in the queue.
    size: int = attrs.field(default=10_000, validator=validators.at_least_one)
    #: What happens when the queue is full: ``block`` pauses reading from the venue, ``drop_oldest``
    #: discards the oldest events and reports them as a `Gap`, ``conflate`` keeps only the latest event
    #: of each symbol, ``error`` ends the consumer with QueueOverflow.
    policy: QueuePolicy = attrs.field(default="block", validator=validators.one_of(QueuePolicy))


#: The queue of a sink that the stack says nothing about.
SINK_QUEUE = QueueSpec(100_000, "drop_oldest")


@attrs.frozen
class FeedSpec:
    """One feed, ``[[feed]]``: a venue, its symbols, its channels and the stages that process it."""

    #: Name of the venue plugin.
    venue: str = attrs.field(validator=validators.not_empty)
    #: Unified symbols, such as ``BTC/USDT``; aliases such as ``BTC-PERP`` are resolved. Required, unless
    #: the venue relays other streams; then default: all.
    symbols: tuple[str, ...] = attrs.field(default=(), converter=validators.symbols)
    #: Channels from `CHANNELS`, or of one venue with the prefix ``x-``; each may have a parameter, as
    #: in ``klines:1m``. Required, unless the venue relays other streams; then default: all.
    channels: tuple[str, ...] = attrs.field(default=(), converter=validators.channels)
    #: Unique name of the feed; default: the venue, with the market or a number if that name is taken.
    name: str = attrs.field(default="", validator=validators.file_name)
    #: Market of the venue, such as ``spot``; default: the market that the venue plugin defines.
    market: str = attrs.field(default="", validator=validators.file_name)
    #: Names of the stages that process the events, in this order.
    stages: tuple[str, ...] = attrs.field(default=(), converter=validators.stages)
    #: How many times in a row a connection may fail before the feed ends; default: no limit.
    max_attempts: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(validators.at_least_one)
    )
    #: Maximum time in seconds, 0 to 1, that events are held back to be delivered in larger batches.
    max_batch_delay: float = attrs.field(default=0.0, validator=validators.at_most_a_second)


@attrs.frozen
class StageSpec:
    """One stage, ``[stage.<name>]``: a plugin that validates or aggregates events, and its settings."""

    #: Name of the stage, by which feeds list it.
    name: str = attrs.field(validator=validators.not_empty)
    #: Name of the plugin; default: the name of the stage.
    use: str = attrs.field(
        default=attrs.Factory(lambda self: self.name, takes_self=True),
        validator=validators.not_empty,
    )
    #: Settings of the plugin: all other keys of the table.
    table: Mapping[str, Any] = attrs.field(factory=dict, repr=masked_table)
    #: What happens when the stage raises: ``restart`` replaces it by a new instance, ``disable`` goes
    #: on without it, ``end`` ends the feed.
    on_error: OnError = attrs.field(default="restart", validator=validators.one_of(OnError))


@attrs.frozen
class SinkSpec:
    """One sink, ``[[sink]]``: a plugin that writes events somewhere, and its settings."""

    #: Name of the plugin.
    use: str = attrs.field(validator=validators.not_empty)
    #: Unique name of the sink; default: the name of the plugin, with a number if that name is taken.
    name: str = attrs.field(default="", validator=validators.file_name)
    #: Types of event that the sink receives, such as ``trade``; default: all.
    types: tuple[str, ...] = attrs.field(default=(), converter=validators.types)
    #: Queue of the sink, as in ``[queue]``; by default larger, and a full one drops the oldest events: a
    #: store that is down does not stop the venues. In a replay the policy is always ``block``.
    queue: QueueSpec = attrs.field(default=SINK_QUEUE)
    #: Settings of the plugin: all other keys of the table.
    table: Mapping[str, Any] = attrs.field(factory=dict, repr=masked_table)
    #: Venues whose events the sink receives; default: all.
    venues: tuple[str, ...] = attrs.field(default=(), converter=validators.venues)
    #: Unified symbols whose events the sink receives; default: all.
    symbols: tuple[str, ...] = attrs.field(default=(), converter=validators.symbols)
    #: Channels whose events the sink receives; ``klines`` selects ``klines:1m`` too; default: all.
    channels: tuple[str, ...] = attrs.field(default=(), converter=validators.any_channels)
    #: Maximum size of the events that are kept on disk until they are stored, such as ``500MB``;
    #: default: none are.
    spool: int = attrs.field(
        default=0, converter=validators.size, validator=validators.not_negative
    )
    #: Folder of the spool, and of the file with the events that the store refused.
    spool_folder: str = "spool"
    #: Maximum number of events that are written together.
    max_batch: int = attrs.field(default=4096, validator=validators.at_least_one)
    #: Maximum time in seconds, 0 to 1, for which events are collected to be written together; default:
    #: that of the plugin, 0.05 for most. With a spool it is at most 0.02.
    max_batch_delay: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(validators.at_most_a_second)
    )


@attrs.frozen
class ClusterSpec:
    """The cluster, ``[cluster]``: a plugin that shares the symbols among processes, and its settings."""

    #: Name of the plugin.
    use: str = attrs.field(validator=validators.not_empty)
    #: Settings of the plugin: all other keys of the table.
    table: Mapping[str, Any] = attrs.field(factory=dict, repr=masked_table)


@attrs.frozen
class Network(feeds.Network):
    """How every connection is made, ``[network]``."""

    #: URL of an HTTP or SOCKS5 proxy; a URL with a password is read from a secret:
    #: ``proxy = { env = "PROXY" }``.
    proxy: str | None = attrs.field(default=None, converter=validators.proxy, repr=masked_url)
    #: Path of a PEM file with trusted root certificates; default: those of the system.
    ca: str | None = None
    #: Name of a plugin that opens the connections instead of core.
    transport: str = ""
    #: Whether venues may send compressed messages: less data to transfer, more CPU time.
    compression: bool = False


@attrs.frozen
class FlightSpec:
    """The flight recorder, ``[flight]``: keeps the latest frames and saves them when something fails."""

    #: Folder that bundles are saved in after a failure; default: none are saved.
    folder: str = ""
    #: How many seconds of frames are kept.
    seconds: float = attrs.field(default=30.0, validator=validators.positive)
    #: Maximum memory for the frames of all feeds, in bytes.
    size: int = attrs.field(default=1 << 20, validator=validators.at_least_one)
    #: How many bundles of each feed are kept in the folder; older ones are deleted.
    keep: int = attrs.field(default=20, validator=validators.at_least_one)


@attrs.frozen
class Process:
    """Changes to the Python process that the stream runs in, ``[process]``."""

    #: Number of new objects after which the garbage collector runs; it ignores objects that existed
    #: when the stream opened. Default 0: the garbage collector is not changed; commands have 50,000.
    gc_threshold: int = attrs.field(default=0, validator=validators.not_negative)


def _feeds(value: Iterable[FeedSpec]) -> tuple[FeedSpec, ...]:
    def names(feed: FeedSpec) -> list[str]:
        return [feed.venue, f"{feed.venue}-{feed.market}"] if feed.market else [feed.venue]

    return validators.with_names(value, "feed", names)


def _sinks(value: Iterable[SinkSpec]) -> tuple[SinkSpec, ...]:
    return validators.with_names(value, "sink", lambda sink: [sink.use])


def _stage_specs(value: Mapping[str, StageSpec | Mapping[str, Any]]) -> dict[str, StageSpec]:
    """Return the specs by name; a plain table has the keys of a ``[stage.<name>]`` table."""
    return {
        name: spec
        if isinstance(spec, StageSpec)
        else StageSpec(
            name,
            table={key: item for key, item in spec.items() if key not in STAGE_KEYS},
            **{key: item for key, item in spec.items() if key in STAGE_KEYS},
        )
        for name, spec in value.items()
    }


@attrs.frozen
class Stack:
    """A whole stack.

    `stages` holds every stage that a feed names and `venues` every venue, with an empty table if the
    stack has none for it.
    """

    #: The feeds.
    feeds: tuple[FeedSpec, ...] = attrs.field(default=(), converter=_feeds)
    #: The stages by name.
    stages: Mapping[str, StageSpec] = attrs.field(factory=dict, converter=_stage_specs)
    #: The settings of the venue plugins, by venue.
    venues: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict, repr=masked_table)
    #: The sinks.
    sinks: tuple[SinkSpec, ...] = attrs.field(default=(), converter=_sinks)
    #: The plugin that shares the symbols among processes; default: this process streams all of them.
    cluster: ClusterSpec | None = None
    #: Default queue of the consumers.
    queue: QueueSpec = attrs.field(factory=QueueSpec)
    #: How every connection is made.
    network: Network = attrs.field(factory=Network)
    #: The flight recorder.
    flight: FlightSpec = attrs.field(factory=FlightSpec)
    #: Changes to the process that the stream runs in.
    process: Process = attrs.field(factory=Process)
    #: Library that runs the event loop: ``asyncio`` or ``trio``.
    backend: Backend = attrs.field(default="asyncio", validator=validators.one_of(Backend))
    #: Where the stack was read from, as error messages name it. Not a key of the file.
    source: str = "stack"
    #: Line numbers of the keys in the file. Not a key of the file.
    places: Places = attrs.field(factory=Places, eq=False, repr=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        stages = {name: StageSpec(name) for feed in self.feeds for name in feed.stages}
        venues: dict[str, Mapping[str, Any]] = {feed.venue: {} for feed in self.feeds}
        object.__setattr__(self, "stages", {**stages, **self.stages})
        object.__setattr__(self, "venues", {**venues, **self.venues})

    def error(self, mistakes: Iterable[Mistake]) -> ConfigError:
        """Return a ConfigError of all *mistakes* in file order, with line numbers, without duplicates."""
        return ConfigError(self.places.locate(dict.fromkeys(mistakes)), self.source)
