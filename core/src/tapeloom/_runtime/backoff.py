"""How long to wait before trying again."""

from __future__ import annotations

import random


class Backoff:
    """How long to wait before the next attempt: doubling, capped, with full jitter.

    Full jitter (a random share of the delay) keeps many clients that lost the same venue from
    coming back at the same moment. *most* attempts in a row may fail; None: as many as it takes.
    """

    def __init__(
        self,
        chance: random.Random,
        *,
        first: float = 0.5,
        cap: float = 60.0,
        healthy: float = 60.0,
        most: int | None = None,
    ) -> None:
        self._chance = chance
        self._first = first
        self._cap = cap
        self._healthy = healthy
        self._most = most
        self.attempt = 0  #: how many have failed in a row

    def next(self) -> float:
        """Return the seconds to wait, and count the attempt."""
        ceiling = min(self._cap, self._first * 2 ** min(self.attempt, 32))
        self.attempt += 1
        return self._chance.uniform(0, ceiling)

    @property
    def spent(self) -> bool:
        """Whether as many attempts in a row have failed as may."""
        return self._most is not None and self.attempt >= self._most

    def lived(self, seconds: float) -> None:
        """Begin anew after a connection that was healthy for long enough."""
        if seconds >= self._healthy:
            self.attempt = 0
