"""Rate limits of venues: messages, dials or request weight per time window.

Venues count per address, so a limit belongs to a host and is shared by all feeds that use the host.
"""

from __future__ import annotations

from collections import Counter, deque
from urllib.parse import urlsplit

from tapeloom.plugin import Clock
from tapeloom.units import Rate


class RateLimit:
    """Allows at most `rate.count` in any window of `rate.seconds`, first come first served.

    A sliding window, not a token bucket: a bucket allows up to twice its size around a burst, and
    venues ban clients for that.
    """

    def __init__(self, rate: Rate, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._acquired: deque[tuple[float, int]] = deque()  # (monotonic seconds, weight)
        self._used = 0
        self._not_before = 0.0

    async def acquire(self, weight: int = 1) -> None:
        """Wait until *weight* is available, and use it; more than the limit counts as the limit."""
        weight = min(weight, self._rate.count)
        while (seconds := self._seconds_until(weight)) > 0:
            await self._clock.sleep(seconds)
        self._acquired.append((self._clock.monotonic(), weight))
        self._used += weight

    def pause(self, seconds: float) -> None:
        """Allow nothing for *seconds*, because the venue demands a pause."""
        self._not_before = max(self._not_before, self._clock.monotonic() + seconds)

    def _seconds_until(self, weight: int) -> float:
        now = self._clock.monotonic()
        if now < self._not_before:
            return self._not_before - now
        while self._acquired and self._acquired[0][0] + self._rate.seconds <= now:
            self._used -= self._acquired.popleft()[1]
        if self._used + weight <= self._rate.count:
            return 0.0
        freed = 0
        for acquired_at, acquired in self._acquired:
            freed += acquired
            if self._used - freed + weight <= self._rate.count:
                return max(acquired_at + self._rate.seconds - now, 1e-3)
        return self._rate.seconds


class RateLimits:
    """All rate limits of a stream, by host and purpose, and its number of open connections."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._limits: dict[tuple[str, str], RateLimit] = {}
        self._open: Counter[str] = Counter()  # connections, by URL

    def limit(self, url: str, purpose: str, rate: Rate | None) -> RateLimit | None:
        """Return the limit for *purpose* on the host of *url*; None if there is none."""
        if rate is None:
            return None
        key = (urlsplit(url).netloc, purpose)
        if key not in self._limits:
            self._limits[key] = RateLimit(rate, self._clock)
        return self._limits[key]

    def count_connection(self, url: str, count: int = 1) -> None:
        """Count a connection to *url* that was opened, or, with -1, has ended."""
        self._open[url] += count

    def has_room(self, url: str, allowed: int | None) -> bool:
        """Return whether one more connection to *url* is allowed; *allowed* None: no limit."""
        return allowed is None or self._open[url] < allowed
