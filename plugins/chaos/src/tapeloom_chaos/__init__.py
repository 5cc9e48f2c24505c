"""Faults on purpose: on the messages of a feed, or on the wire.

Named in a feed's `stages`, `chaos` stands between the feed and its connections, whatever transport
makes them. `relay` and the verb ``tapeloom chaos`` stand on the wire, as a proxy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tapeloom.hooks import hookimpl

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator

    from tapeloom import Stream
    from tapeloom.plugin import Dial, Feed

    from ._faults import Done, Fault, Relaying, Settings
    from ._link import Chaos, wrap
    from ._relay import Relay, relay

__all__ = ["Chaos", "Done", "Fault", "Relay", "Relaying", "Settings", "done", "relay", "wrap"]

_HOMES = {
    "_faults": ("Done", "Fault", "Relaying", "Settings"),
    "_link": ("Chaos", "wrap"),
    "_relay": ("Relay", "relay"),
}


def __getattr__(name: str) -> Any:
    # This module is imported whenever the command line is; nothing else is needed then.
    for home, names in _HOMES.items():
        if name in names:
            import importlib

            return getattr(importlib.import_module(f".{home}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def done(stream: Stream) -> list[Done]:
    """Return what was injected into the feeds of *stream* so far, feed by feed."""
    from ._link import Chaos

    return [one for plan in stream.plans if isinstance(plan.dial, Chaos) for one in plan.dial.done]


@hookimpl(specname="settings")
def _settings() -> type[Settings]:
    from ._faults import Settings

    return Settings


@hookimpl(wrapper=True, tryfirst=True)
def transport(feed: Feed) -> Generator[None, Dial, Dial]:
    """Put the faults of this feed around the way it dials."""
    from ._faults import Settings
    from ._link import wrap

    dial = yield
    settings = feed.stage_settings.get("chaos") or Settings()
    return wrap(dial, settings, feed.clock, feed=feed.name, counters=feed.counters)


@hookimpl
def commands(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb ``chaos``."""
    from . import _command

    _command.add(verbs)
