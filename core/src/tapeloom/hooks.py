"""What a plugin can provide: every hook, on one screen.

A hook is called while a feed is being composed, and returns the thing that will run. None is ever
called for a message. A plugin writes ``from tapeloom.hooks import hookimpl`` and decorates plain
functions; it may accept fewer arguments than stand here. Only plugins that a stack names are asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from .plugin import Codec, Dial, Endpoint, Feed, History, Parse, Sink, Source, Stage

__all__ = [
    "aggregate", "commands", "connect", "history", "hookimpl", "hookspec", "parse", "settings",
    "sink", "subscribe", "transport", "validate",
]  # fmt: skip

hookspec = pluggy.HookspecMarker("tapeloom")
hookimpl = pluggy.HookimplMarker("tapeloom")


@hookspec(firstresult=True)
def connect(feed: Feed) -> Sequence[Endpoint] | Source:
    """Say where this feed's data comes from."""
    raise NotImplementedError


@hookspec(firstresult=True)
def subscribe(feed: Feed) -> Codec:
    """Return the venue's subscription language."""
    raise NotImplementedError


@hookspec(firstresult=True)
def parse(feed: Feed) -> Parse:
    """Return the function that turns frames into events."""
    raise NotImplementedError


@hookspec(firstresult=True)
def validate(feed: Feed) -> Stage:
    """Return a stage that passes, repairs or rejects events, and says why."""
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
    """Return the venue's REST language."""
    raise NotImplementedError


@hookspec(firstresult=True)
def transport(feed: Feed) -> Dial:
    """Return another way to dial."""
    raise NotImplementedError


@hookspec(firstresult=True)
def sink(settings: Any) -> Sink:
    """Return where batches leave the process."""
    raise NotImplementedError


@hookspec
def commands(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add verbs to the command line. Set `run=function(args) -> int` as a default of each."""
