"""Whether the connections of ccxt still bring anything: data, pings, or pongs to our own pings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["Pulse"]


class Pulse:
    """Remembers when each connection was last seen to have brought something.

    ccxt stamps it with a clock of its own, so only a change of the stamp counts.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Any, float]] = {}  # connection → stamp, when it changed

    def silence(self, exchanges: Iterable[Any], now: float) -> float:
        """Return for how many seconds the most silent connection has brought nothing."""
        clients = [client for one in exchanges for client in one.clients.values()]
        known = self._seen
        self._seen = {}
        for client in clients:
            stamp = getattr(client, "last_message_at", None)
            before = known.get(id(client))
            same = before is not None and before[0] == stamp
            self._seen[id(client)] = before if before is not None and same else (stamp, now)
        return max((now - since for _, since in self._seen.values()), default=0.0)
