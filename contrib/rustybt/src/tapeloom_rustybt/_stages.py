"""A stage of tapeloom by itself, for the guide's functions that work on bars without a feed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio
from tapeloom import Registry
from tapeloom.plugin import Feed

if TYPE_CHECKING:
    from tapeloom.plugin import Stage

__all__ = ["alone"]


class _Clock:
    """The machine's time: a stage by itself is never asked to act on time."""

    def time_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


def alone(plugin: str, hook: str, **settings: Any) -> Stage:
    """Return the stage that *plugin* makes at *hook*, with these settings.

    Raises PluginNotFound where it is not installed.
    """
    registry = Registry()
    cls = registry.call(plugin, "settings")
    feed = Feed("rustybt", "rustybt", settings=cls(**settings), clock=_Clock())
    stage: Stage = registry.call(plugin, hook, feed=feed)
    return stage
