"""Budgets that venues grant: so many messages, dials or request weights in so many seconds.

A venue counts by address, so a budget belongs to a host and is shared by every feed that talks to it.
"""

from __future__ import annotations

from collections import Counter, deque
from urllib.parse import urlsplit

from tapeloom.plugin import Clock
from tapeloom.units import Rate


class RateLimit:
    """Let at most `rate.count` through in any window of `rate.seconds`, in the order of asking.

    A sliding window, not a token bucket: a bucket lets twice its size through around a burst, and
    venues ban for that.
    """

    def __init__(self, rate: Rate, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._spent: deque[tuple[float, int]] = deque()
        self._used = 0
        self._not_before = 0.0

    async def take(self, weight: int = 1) -> None:
        """Wait until *weight* may be spent, and spend it. More than the whole budget counts as all."""
        weight = min(weight, self._rate.count)
        while (wait := self._wait(weight)) > 0:
            await self._clock.sleep(wait)
        self._spent.append((self._clock.monotonic(), weight))
        self._used += weight

    def pause(self, seconds: float) -> None:
        """Let nothing through for *seconds*: the venue has asked for it."""
        self._not_before = max(self._not_before, self._clock.monotonic() + seconds)

    def _wait(self, weight: int) -> float:
        now = self._clock.monotonic()
        if now < self._not_before:
            return self._not_before - now
        while self._spent and self._spent[0][0] + self._rate.seconds <= now:
            self._used -= self._spent.popleft()[1]
        if self._used + weight <= self._rate.count:
            return 0.0
        freed = 0
        for spent_at, spent in self._spent:
            freed += spent
            if self._used - freed + weight <= self._rate.count:
                return max(spent_at + self._rate.seconds - now, 1e-3)
        return self._rate.seconds


class RateLimits:
    """Every budget of a stream, by host and purpose: its feeds share them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._all: dict[tuple[str, str], RateLimit] = {}
        self._open: Counter[str] = Counter()  # connections, by address

    def of(self, url: str, purpose: str, rate: Rate | None) -> RateLimit | None:
        """Return the budget for *purpose* on the host of *url*; None where there is no limit."""
        if rate is None:
            return None
        key = (urlsplit(url).netloc, purpose)
        if key not in self._all:
            self._all[key] = RateLimit(rate, self._clock)
        return self._all[key]

    def opened(self, url: str, count: int = 1) -> None:
        """Count a connection to *url* that has been opened, or, with -1, has ended."""
        self._open[url] += count

    def room(self, url: str, allowed: int | None) -> bool:
        """Return whether one more connection to *url* would be within what is allowed."""
        return allowed is None or self._open[url] < allowed
