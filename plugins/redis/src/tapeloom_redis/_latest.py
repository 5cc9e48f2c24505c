"""The newest event of each type, venue, symbol and channel."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import redis
from tapeloom.events import Book, Event

__all__ = ["Latest"]


class Latest:
    """Chooses the newest events for the hashes ``<prefix>:<type>``, by the venue's time.

    The field of an event is its venue, symbol and channel, with a space in between. A late event does not
    replace a newer one. Deltas of books are left out: one alone says nothing.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._newest: dict[str, dict[str, int]] = {}

    def forget(self) -> None:
        """Read anew from the server what it has: a lost answer may have hidden a write."""
        self._newest.clear()

    def of(
        self, client: redis.Redis, events: Sequence[Event], lines: Sequence[bytes]
    ) -> Mapping[str, Mapping[str, bytes]]:
        """Return the newest of *events*, as *lines*, by field and key of the hash."""
        found: dict[str, dict[str, bytes]] = {}
        for event, line in zip(events, lines, strict=True):
            if type(event) is Book and event.kind == "delta":
                continue
            newest = self._newest.get(event.type)
            if newest is None:
                newest = self._newest[event.type] = self._stored(client, event.type)
            name = f"{event.venue} {event.symbol} {event.channel}"
            if event.ts >= newest.get(name, event.ts):
                newest[name] = event.ts
                found.setdefault(f"{self._prefix}:{event.type}", {})[name] = line
        return found

    def _stored(self, client: redis.Redis, kind: str) -> dict[str, int]:
        fields = client.hgetall(f"{self._prefix}:{kind}")
        return {
            name.decode() if isinstance(name, bytes) else name: json.loads(line)["ts"]
            for name, line in fields.items()
        }
