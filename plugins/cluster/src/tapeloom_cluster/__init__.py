"""Shares the symbols of a stack among the processes that run it, over NATS JetStream.

This module has the hooks, `settings` the settings. `coordinator` decides, with `placement`, `view` and
`records`, without any I/O; `bucket` has the entries that the nodes write and read; `steering` and `streams`
do what is decided; `session` publishes, under the `leases`, for the sink of `tapeloom-nats`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tapeloom.hooks import hookimpl

from .settings import Settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from tapeloom.plugin import FeedOutline, Sink, Steering

__all__ = ["BACKENDS", "Settings"]

#: nats-py runs on nothing else.
BACKENDS = ("asyncio",)


@hookimpl
def steer(settings: Any, feeds: Sequence[FeedOutline], sinks: Mapping[str, Sink]) -> Steering:
    """Return what decides which symbols this node streams."""
    from .setup import steering

    return steering(settings or Settings(), feeds, sinks)


@hookimpl
def settings() -> type[Any]:
    """Return the settings class of ``[cluster]``."""
    return Settings


@hookimpl
def commands(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb ``cluster``."""
    from .verbs import add

    add(verbs)
