"""Makes the steering from the stack, and checks what the stack says of the cluster."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence

from tapeloom.errors import ConfigError, Mistake
from tapeloom.plugin import FeedOutline, Sink
from tapeloom_nats.settings import Settings as NatsSettings
from tapeloom_nats.sink import NatsSink

from .coordinator import Rules
from .leases import Leases
from .session import Node
from .settings import Settings
from .shards import ShardTable, exclusive_shards, limited_venues
from .steering import ClusterSteering

__all__ = ["node_name", "steering"]

#: Bytes of a trade in the stream, at few and at many trades a message, as measured for tapeloom-nats.
_TRADE_BYTES = 55, 78


def node_name(settings: Settings) -> str:
    """Return the name of this node."""
    name = settings.node or os.environ.get("TAPELOOM_NODE", "") or socket.gethostname()
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)


def steering(
    settings: Settings, feeds: Sequence[FeedOutline], sinks: Mapping[str, Sink]
) -> ClusterSteering:
    """Return the steering of this node. Raises ConfigError."""
    name, sink = _sink(settings, sinks)
    shards = sink.settings.shards
    table = ShardTable(shards, frozenset(limits := limited_venues(feeds)))
    if staged := [feed.name for feed in feeds if feed.stages]:
        raise ConfigError([Mistake("use", _no_stages(staged))])
    if settings.replicas > 1 and (mistakes := [*_not_merged(feeds, settings.replicas)]):
        raise ConfigError(mistakes)
    node = Node(
        node_name(settings), name, sink.writer, shards, settings.replicas, sink.settings, table
    )
    rules = Rules(
        shards,
        settings.replicas,
        settings.lease / 1e9,
        exclusive_shards(table, limits, settings.replicas),
    )
    lines = [*_lines(settings, node, feeds, [*limits])]
    leases = Leases(time.monotonic)
    return ClusterSteering(node, rules, feeds, sink, settings.bucket, lines, leases)


def _sink(settings: Settings, sinks: Mapping[str, Sink]) -> tuple[str, NatsSink]:
    found = {name: sink for name, sink in sinks.items() if isinstance(sink, NatsSink)}
    if settings.sink:
        found = {name: sink for name, sink in found.items() if name == settings.sink}
    if len(found) != 1:
        problem = (
            f"expected one [[sink]] with use = 'nats'{f' and name = {settings.sink!r}' if settings.sink else ''},"
            f" which publishes what the nodes stream; there are {len(found)}. Add it"
            f"{', or name one of them' if len(found) > 1 else ''}."
        )
        raise ConfigError([Mistake("sink", problem)])
    return next(iter(found.items()))


def _no_stages(feeds: Sequence[str]) -> str:
    return (
        f"the feeds of a cluster have no stages, because two nodes would derive different events, but"
        f" {', '.join(map(repr, feeds))} has some. Name the stages in the stack that reads the stream."
    )


def _not_merged(feeds: Sequence[FeedOutline], replicas: int) -> Iterator[Mistake]:
    """Yield a mistake for each feed with channels of which readers cannot merge two copies."""
    for feed in feeds:
        if feed.unidentified:
            channels = ", ".join(feed.unidentified)
            yield Mistake(
                "replicas",
                f"two copies of {channels} of {feed.name!r} cannot be merged: {feed.venue} sends no number"
                f" and no time by which readers recognise an event. With replicas = {replicas} leave them"
                " out, and stream them in a stack of their own with replicas = 1.",
            )


def _lines(
    settings: Settings, node: Node, feeds: Sequence[FeedOutline], limited: Sequence[str]
) -> Iterator[str]:
    nats: NatsSettings = node.settings
    symbols = sum(len(feed.symbols) for feed in feeds)
    yield (
        f"node {node.name}, bucket {settings.bucket}: {symbols} symbols in {node.shards} shard(s), each on"
        f" {node.replicas} node(s), lease of {settings.lease / 1e9:g} s"
    )
    most = node.shards * node.replicas
    yield f"up to {most} node(s) can have work; a node that ends is replaced within the lease"
    if node.shards < 8:
        yield "few shards cannot be shared evenly: write shards = 64 in the sink"
    for venue in limited:
        yield f"{venue} limits its connections: one node has all its symbols"
    yield from _retention(nats, node.replicas)


def _retention(nats: NatsSettings, replicas: int) -> Iterator[str]:
    low, high = (size * replicas for size in _TRADE_BYTES)
    hour = f"{low * 3600 / 1e3:,.0f} to {high * 3600 / 1e3:,.0f} KB an hour"
    yield f"the stream grows by {low} to {high} bytes a trade: at 1 trade a second {hour}"
    if nats.max_bytes is None and nats.max_age is None:
        yield "the stream has no limit: its disk fills up. Write max_age or max_bytes in the sink"
    if nats.max_bytes is not None:
        hours = nats.max_bytes / (high * 1000 * 3600)
        yield f"at 1,000 trades a second max_bytes keeps {hours:,.1f} hours: readers may be away so long"
    if nats.max_age is not None:
        size = nats.max_age / 1e9 * high * 1000 / 1e9
        yield f"at 1,000 trades a second max_age keeps {size:,.1f} GB"
    if (nats.replicas or 1) == 1:
        yield "the stream has 1 replica: if its server is lost, so is the stream. Write replicas = 3 in the sink"
