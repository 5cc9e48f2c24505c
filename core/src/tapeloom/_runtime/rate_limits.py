"""Rate limits of venues: messages, dials or request weight per time window.

Venues count per address, so a limit belongs to a host and is shared by all feeds that use the host.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from urllib.parse import urlsplit

import anyio

from tapeloom.plugin import Clock, Endpoint
from tapeloom.units import Rate

#: Seconds by which a window is longer than the venue's: what is sent at its start may take longer
#: to the venue than what is sent after its end.
_JITTER_SECONDS = 0.1


class LimitPaused(Exception):
    """The venue demands a pause that lasts longer than the caller waits; `seconds` of it are left."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"paused for {seconds:.0f} s")


class RateLimit:
    """Allows at most `rate.count` in any window of `rate.seconds`; all of them may be used at once.

    A sliding window, not a token bucket: a bucket allows up to twice its size around a burst, and
    venues ban clients for that. What is used counts against *shared* too: messages on a connection
    against the limit of the host.
    """

    def __init__(self, rate: Rate, clock: Clock, shared: RateLimit | None = None) -> None:
        self._rate = rate
        self._clock = clock
        self._shared = shared
        self._acquired: deque[tuple[float, int]] = deque()  # (monotonic seconds, weight)
        self._used = 0
        self._not_before = 0.0
        self._waiting: list[tuple[bool, int]] = []  # (not urgent, number), in order of service
        self._numbers = count()
        self._served = anyio.Event()

    async def acquire(
        self,
        weight: int = 1,
        *,
        urgent: bool = False,
        reserve: int = 0,
        longest_pause: float = math.inf,
    ) -> None:
        """Wait until *weight* is available, and use it; more than the limit counts as the limit.

        Urgent calls are served first, then the oldest. *reserve* is the part of the limit that the
        call leaves unused for others.

        Raises LimitPaused if the venue demands a pause of more than *longest_pause* seconds.
        """
        place = (not urgent, next(self._numbers))
        insort(self._waiting, place)
        try:
            while True:
                if self.paused_seconds > longest_pause:
                    raise LimitPaused(self.paused_seconds)
                if self._waiting[0] != place:
                    await self._served.wait()
                elif (seconds := self.seconds_until(weight, reserve)) > 0:
                    await self._clock.sleep(seconds)
                else:
                    self.use(weight)
                    return
        finally:
            self._waiting.remove(place)
            self._served.set()
            self._served = anyio.Event()

    def pause(self, seconds: float) -> None:
        """Allow nothing for *seconds*, because the venue demands a pause."""
        self._not_before = max(self._not_before, self._clock.monotonic() + seconds)

    @property
    def paused_seconds(self) -> float:
        """The seconds left of the pause that the venue demands; 0.0 if there is none."""
        return max(self._not_before - self._clock.monotonic(), 0.0)

    def use(self, weight: int) -> None:
        """Count *weight* as used now, without waiting."""
        weight = min(weight, self._rate.count)
        self._acquired.append((self._clock.monotonic(), weight))
        self._used += weight
        if self._shared is not None:
            self._shared.use(weight)

    def seconds_until(self, weight: int, reserve: int = 0) -> float:
        """Return the seconds until *weight* is available, 0.0 if it is now."""
        now, window = self._clock.monotonic(), self._rate.seconds + _JITTER_SECONDS
        while self._acquired and self._acquired[0][0] + window <= now:
            self._used -= self._acquired.popleft()[1]
        weight = min(weight, self._rate.count)
        excess = self._used + weight - max(self._rate.count - reserve, weight)
        seconds = self.paused_seconds
        for acquired_at, acquired in self._acquired:
            if excess <= 0:
                break
            excess -= acquired
            seconds = max(seconds, acquired_at + window - now, 1e-3)
        shared = self._shared
        return seconds if shared is None else max(seconds, shared.seconds_until(weight))


class RateLimits:
    """All rate limits of a stream, by host and purpose, and its number of open connections."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._limits: dict[tuple[str, str], RateLimit] = {}
        self.open: Counter[str] = Counter()  #: number of open connections by URL

    def limit(self, url: str, purpose: str, rate: Rate | None) -> RateLimit | None:
        """Return the limit for *purpose* on the host of *url*; None if there is none."""
        if rate is None:
            return None
        key = (urlsplit(url).netloc, purpose)
        if key not in self._limits:
            self._limits[key] = RateLimit(rate, self._clock)
        return self._limits[key]


class EndpointLimits:
    """The limits for connections to one endpoint, shared by all that go to its host."""

    def __init__(self, limits: RateLimits, endpoint: Endpoint) -> None:
        self._limits = limits
        self._endpoint = endpoint
        # None if there is no limit
        self.messages = limits.limit(endpoint.url, "message", endpoint.host_message_rate)
        self.dials = limits.limit(endpoint.url, "dial", endpoint.dial_rate)

    def wait_seconds(self) -> float:
        """Return for how long the limit of connections delays the next one, in seconds."""
        return self.dials.seconds_until(1) if self.dials is not None else 0.0

    @asynccontextmanager
    async def dialled(self) -> AsyncIterator[None]:
        """Wait until a connection may be dialled, and count it as open inside the context."""
        if self.dials is not None:
            await self.dials.acquire()
        self._limits.open[self._endpoint.url] += 1
        try:
            yield
        finally:
            self._limits.open[self._endpoint.url] -= 1

    def has_room(self) -> bool:
        """Return whether the venue allows one more connection."""
        allowed = self._endpoint.max_connections
        return allowed is None or self._limits.open[self._endpoint.url] < allowed
