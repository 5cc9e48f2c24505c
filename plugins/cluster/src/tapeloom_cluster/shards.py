"""Which symbols are in which shard, and what the limits of the venues mean for a shard."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from attrs import Factory, define, field
from tapeloom.errors import ConfigError, Mistake
from tapeloom.plugin import FeedOutline
from tapeloom_nats.messages import shard_of

__all__ = ["ShardTable", "exclusive_shards", "limited_venues"]

#: A venue that allows so many connections is spread over the nodes: each needs a few.
_MANY_CONNECTIONS = 64
#: Stands for all symbols of a venue whose connections are limited: they are in one shard.
_ALL_SYMBOLS = "*"


@define(eq=False)
class ShardTable:
    """The shards of symbols. All symbols of the venues in *limited* are in one shard, on one node."""

    shards: int
    limited: frozenset[str] = frozenset()
    _known: dict[tuple[str, str], str] = field(factory=dict)
    _by_key: dict[str, str] = Factory(dict)

    def of(self, venue: str, symbol: str) -> str:
        """Return the shard of a symbol."""
        shard = self._known.get((venue, symbol))
        if shard is None:
            name = _ALL_SYMBOLS if venue in self.limited else symbol
            shard = self._known[venue, symbol] = shard_of(venue, name, self.shards)
        return shard

    def of_position(self, key: str) -> str:
        """Return the shard of a position of a sink, by its key: an array of venue, symbol and channel."""
        shard = self._by_key.get(key)
        if shard is None:
            venue, symbol, *_ = json.loads(key)
            shard = self._by_key[key] = self.of(venue, symbol)
        return shard

    def symbols(self, feeds: Iterable[FeedOutline]) -> dict[int, dict[str, list[str]]]:
        """Return by shard and feed the symbols that are in it."""
        found: dict[int, dict[str, list[str]]] = {shard: {} for shard in range(self.shards)}
        for feed in feeds:
            for symbol in feed.symbols:
                shard = int(self.of(feed.venue, symbol))
                found[shard].setdefault(feed.name, []).append(symbol)
        return found


def limited_venues(feeds: Sequence[FeedOutline]) -> dict[str, tuple[int, int]]:
    """Return by venue the most connections that it allows, and how many the feeds need.

    The limit is the smallest that one of its endpoints declares.
    """
    needed: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    limits: dict[str, dict[str, int]] = {}
    for feed in feeds:
        for endpoint in feed.endpoints:
            most = endpoint.max_connections
            if most is None or most >= _MANY_CONNECTIONS:
                continue
            limits.setdefault(feed.venue, {})[endpoint.url] = most
            channels = [
                channel
                for channel in feed.channels
                if not endpoint.channels or channel.partition(":")[0] in endpoint.channels
            ]
            count = len(channels) * len(feed.symbols)
            needed[feed.venue][endpoint.url] += -(-count // endpoint.max_subscriptions)
    return {
        venue: min(
            ((limit, needed[venue][url]) for url, limit in by_url.items()),
            key=lambda pair: pair[0] / max(pair[1], 1),
        )
        for venue, by_url in limits.items()
    }


def exclusive_shards(
    table: ShardTable, limits: Mapping[str, tuple[int, int]], replicas: int
) -> frozenset[int]:
    """Return the shards that are released before another node takes them.

    Raises ConfigError where a venue does not allow the connections of all replicas.
    """
    found = set()
    mistakes = []
    for venue, (limit, needed) in limits.items():
        if needed * replicas > limit:
            mistakes.append(
                Mistake(
                    "replicas",
                    f"{venue} allows {limit} connections at a time, and {replicas} replicas need"
                    f" {needed * replicas}. Write replicas = {max(limit // max(needed, 1), 1)}, or stream"
                    f" {venue} in a stack of its own.",
                )
            )
        if needed * (replicas + 1) > limit:
            found.add(int(table.of(venue, _ALL_SYMBOLS)))
    if mistakes:
        raise ConfigError(mistakes)
    return frozenset(found)
