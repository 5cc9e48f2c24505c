"""Delays between attempts to reconnect or to repeat a request."""

from __future__ import annotations

import random


class Backoff:
    """Exponential backoff with a cap and full jitter.

    Full jitter (a random share of the delay) keeps many clients that lost the same venue from
    reconnecting at the same moment. *first*, *cap* and *healthy* are in seconds; a connection that
    lasted *healthy* seconds resets the delay. *max_attempts* may fail in a row; None: no limit.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        first: float = 0.5,
        cap: float = 60.0,
        healthy: float = 60.0,
        max_attempts: int | None = None,
    ) -> None:
        self._rng = rng
        self._first = first
        self._cap = cap
        self._healthy = healthy
        self._max_attempts = max_attempts
        self.attempt = 0  #: number of failed attempts in a row

    def next(self) -> float:
        """Count a failed attempt, and return the seconds to wait before the next one."""
        ceiling = min(self._cap, self._first * 2 ** min(self.attempt, 32))
        self.attempt += 1
        return self._rng.uniform(0, ceiling)

    @property
    def exhausted(self) -> bool:
        """Whether `max_attempts` have failed in a row."""
        return self._max_attempts is not None and self.attempt >= self._max_attempts

    def record_lifetime(self, seconds: float) -> None:
        """Reset the count after a connection that lasted at least *healthy* seconds."""
        if seconds >= self._healthy:
            self.attempt = 0
