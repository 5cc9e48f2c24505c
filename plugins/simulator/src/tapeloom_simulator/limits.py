"""The limits venues enforce: a sliding window, and REST budgets with a ban for repeated violations."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from attrs import define, field

if TYPE_CHECKING:
    from tapeloom.units import Rate

    from .server_api import RestBudget

__all__ = ["BudgetUsage", "Window"]


class Window:
    """A sliding-window rate limit: at most `count` in any `seconds`."""

    def __init__(self, rate: Rate, scale: float = 1.0) -> None:
        self._count, self._seconds = rate.count, rate.seconds / scale
        self._times: deque[float] = deque()

    def allow(self, now: float) -> bool:
        """Count one more and return whether it is within the limit."""
        times = self._times
        while times and times[0] <= now - self._seconds:
            times.popleft()
        times.append(now)
        if len(times) <= self._count:
            return True
        times.popleft()  # bounds the memory under a flood
        return False

    def wait_seconds(self, now: float) -> int:
        """Return after how many whole seconds the next one would be allowed; at least 1."""
        return max(1, int(self._times[0] + self._seconds - now) + 1) if self._times else 1


@define
class BudgetUsage:
    """What has been used of one REST budget."""

    budget: RestBudget
    scale: float = 1.0
    used: int = 0
    _window: int = field(default=-1, init=False)
    _ignored: int = field(default=0, init=False)
    _banned: float = field(default=float("-inf"), init=False)

    def spend(self, weight: int, now: float) -> tuple[int, int]:
        """Count a call. Return its HTTP status (200, 429, 418) and the seconds to wait."""
        seconds = self.budget.window_seconds / self.scale
        if now < self._banned:
            return 418, int(self._banned - now) + 1
        if (window := int(now // seconds)) != self._window:
            self._window, self.used, self._ignored = window, 0, 0
        self.used += weight
        if self.used <= self.budget.limit:
            return 200, 0
        self._ignored += 1
        if self._ignored > self.budget.tolerated_violations:
            self._banned = now + self.budget.ban_seconds / self.scale
            return 418, int(self.budget.ban_seconds / self.scale) + 1
        return 429, int((window + 1) * seconds - now) + 1
