"""All hooks that a plugin can implement.

Hooks are called while a feed is composed and return the objects that run later; no hook is called per
message. A plugin imports ``from tapeloom.hooks import hookimpl``, decorates plain functions, and may accept
fewer arguments than listed here. Only plugins that the stack names are called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from .plugin import (
        Codec,
        Dial,
        Endpoint,
        Feed,
        FeedOutline,
        History,
        ObservingSink,
        Parse,
        Sink,
        Source,
        Stage,
        Steering,
    )

__all__ = [
    "aggregate", "commands", "connect", "history", "hookimpl", "hookspec", "parse", "settings",
    "sink", "steer", "subscribe", "transport", "validate",
]  # fmt: skip

hookspec = pluggy.HookspecMarker("tapeloom")
hookimpl = pluggy.HookimplMarker("tapeloom")


@hookspec(firstresult=True)
def connect(feed: Feed) -> Sequence[Endpoint] | Source:
    """Return the endpoints to connect to, or a source that delivers events by other means."""
    raise NotImplementedError


@hookspec(firstresult=True)
def subscribe(feed: Feed) -> Codec:
    """Return the codec for the venue's subscription messages and replies."""
    raise NotImplementedError


@hookspec(firstresult=True)
def parse(feed: Feed) -> Parse:
    """Return the function that turns frames into events."""
    raise NotImplementedError


@hookspec(firstresult=True)
def validate(feed: Feed) -> Stage:
    """Return a stage that passes, repairs or rejects events; a Reject carries the evidence."""
    raise NotImplementedError


@hookspec(firstresult=True)
def aggregate(feed: Feed) -> Stage:
    """Return a stage that adds derived events, such as bars or books."""
    raise NotImplementedError


@hookspec(firstresult=True)
def settings() -> type[Any]:
    """Return the attrs class of this plugin's table in the stack."""
    raise NotImplementedError


@hookspec(firstresult=True)
def history(feed: Feed) -> History:
    """Return the requests and parsers for the venue's REST API."""
    raise NotImplementedError


@hookspec(firstresult=True)
def transport(feed: Feed) -> Dial:
    """Return a function that opens WebSocket connections instead of core's."""
    raise NotImplementedError


@hookspec(firstresult=True)
def sink(settings: Any) -> Sink | ObservingSink:
    """Return a sink that takes batches out of the process, or one that shows or counts them."""
    raise NotImplementedError


@hookspec(firstresult=True)
def steer(settings: Any, feeds: Sequence[FeedOutline], sinks: Mapping[str, Sink]) -> Steering:
    """Return what decides which symbols of the feeds this process streams; *sinks* are by name."""
    raise NotImplementedError


@hookspec
def commands(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add verbs to the command line, each with the default `run=function(args) -> int`."""
