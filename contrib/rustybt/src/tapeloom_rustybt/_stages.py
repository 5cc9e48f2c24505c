"""Creates a stage of tapeloom without a feed, for the guide's functions that work on bars."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio
from tapeloom import Registry
from tapeloom.plugin import Feed

if TYPE_CHECKING:
    from tapeloom.plugin import Stage

__all__ = ["make_stage"]


class _Clock:
    """The machine's time. Stages that are used without a feed have no timers."""

    def time_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


def make_stage(plugin: str, hook: str, **settings: Any) -> Stage:
    """Return the stage that the hook *hook* of *plugin* creates with *settings*.

    Raises PluginNotFound if the plugin is not installed.
    """
    registry = Registry()
    cls = registry.call(plugin, "settings")
    feed = Feed("rustybt", "rustybt", settings=cls(**settings), clock=_Clock())
    stage: Stage = registry.call(plugin, hook, feed=feed)
    return stage
