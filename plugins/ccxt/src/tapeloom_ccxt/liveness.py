"""How long ccxt's connections have received nothing: no data, no ping, no pong to our pings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["Liveness"]


class Liveness:
    """Records when each connection last received anything.

    ccxt stamps each connection with a clock of its own, so only a change of the stamp counts.
    """

    def __init__(self) -> None:
        #: The stamp of each connection, by its id, and when the stamp was found to have changed.
        self._stamps: dict[int, tuple[Any, float]] = {}

    def silent_seconds(self, exchanges: Iterable[Any], now: float) -> float:
        """Return the longest time for which a connection has received nothing."""
        clients = [client for exchange in exchanges for client in exchange.clients.values()]
        known = self._stamps
        self._stamps = {}
        for client in clients:
            stamp = getattr(client, "last_message_at", None)
            before = known.get(id(client))
            unchanged = before is not None and before[0] == stamp
            self._stamps[id(client)] = before if before is not None and unchanged else (stamp, now)
        return max((now - since for _, since in self._stamps.values()), default=0.0)
