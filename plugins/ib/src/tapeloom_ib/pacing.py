"""The gateway's limits on how often data may be requested."""

from __future__ import annotations

from collections import deque
from typing import Any

from attrs import define, field

__all__ = ["Pacing"]

#: The venue's limit: so many requests for bars in so many seconds (TWS API, "Pacing Violations").
_MAX_BAR_REQUESTS, _WINDOW_SECONDS = 60, 600


@define
class Pacing:
    """Counts the requests of all connections of a feed, to keep within the venue's limits.

    Bars may be requested 60 times in ten minutes, and the same data once in `repeat_after_seconds`.
    """

    repeat_after_seconds: float
    _bar_requests: deque[float] = field(factory=deque, init=False)
    _requests: dict[Any, float] = field(factory=dict, init=False)

    def wait_seconds(self, key: Any, bars: bool, now: float) -> float:
        """Return how long to wait before a request; if 0, count the request as sent."""
        repeat_after = self.repeat_after_seconds
        waits = [self._requests.get(key, -repeat_after) + repeat_after - now]
        while self._bar_requests and self._bar_requests[0] <= now - _WINDOW_SECONDS:
            self._bar_requests.popleft()
        if bars and len(self._bar_requests) >= _MAX_BAR_REQUESTS:
            waits.append(self._bar_requests[0] + _WINDOW_SECONDS - now)
        if (wait := max(waits)) > 0:
            return wait
        self._requests[key] = now
        if bars:
            self._bar_requests.append(now)
        return 0.0
