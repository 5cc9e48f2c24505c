"""How often the gateway may be asked."""

from __future__ import annotations

from collections import deque
from typing import Any

from attrs import define, field

__all__ = ["Pace"]


@define
class Pace:
    """What the venue lets a client ask for in a time, over all its connections.

    60 requests for bars in ten minutes, and none twice within `repeat_after`. (TWS API, pacing.)
    """

    repeat_after: float
    _bars: deque[float] = field(factory=deque, init=False)
    _asked: dict[Any, float] = field(factory=dict, init=False)

    def wait(self, key: Any, bars: bool, now: float) -> float:
        """Return for how many seconds to wait; 0 counts the request as made."""
        waits = [self._asked.get(key, -self.repeat_after) + self.repeat_after - now]
        while self._bars and self._bars[0] <= now - 600:
            self._bars.popleft()
        if bars and len(self._bars) >= 60:
            waits.append(self._bars[0] + 600 - now)
        if (wait := max(waits)) > 0:
            return wait
        self._asked[key] = now
        if bars:
            self._bars.append(now)
        return 0.0
