"""Fault injection: into the messages of a feed, or into the bytes on the wire.

Named in a feed's `stages`, `chaos` wraps the feed's connections, whatever transport dials them.
`relay` and the command ``tapeloom chaos`` run a proxy that injects faults into the bytes it forwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tapeloom.hooks import hookimpl

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator

    from tapeloom import Stream
    from tapeloom.plugin import Dial, Feed

    from ._faults import Fault, InjectedFault, RelaySettings, Settings
    from ._link import Chaos, wrap
    from ._relay import Relay, relay

__all__ = [
    "Chaos",
    "Fault",
    "InjectedFault",
    "Relay",
    "RelaySettings",
    "Settings",
    "injected_faults",
    "relay",
    "wrap",
]

#: The module of each exported name, for the lazy import below.
_EXPORTS = {
    "_faults": ("InjectedFault", "Fault", "RelaySettings", "Settings"),
    "_link": ("Chaos", "wrap"),
    "_relay": ("Relay", "relay"),
}


def __getattr__(name: str) -> Any:
    # Import lazily: the command line imports this module at every start and needs nothing else.
    for module, names in _EXPORTS.items():
        if name in names:
            import importlib

            return getattr(importlib.import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def injected_faults(stream: Stream) -> list[InjectedFault]:
    """Return the faults injected into the feeds of *stream* so far, feed by feed."""
    from ._link import Chaos

    dials = [plan.dial for plan in stream.plans if isinstance(plan.dial, Chaos)]
    return [fault for dial in dials for fault in dial.injected]


@hookimpl(specname="settings")
def _settings() -> type[Settings]:
    from ._faults import Settings

    return Settings


@hookimpl(wrapper=True, tryfirst=True)
def transport(feed: Feed) -> Generator[None, Dial, Dial]:
    """Wrap the feed's dial so that its connections have the configured faults."""
    from ._faults import Settings
    from ._link import wrap

    dial = yield
    settings = feed.stage_settings.get("chaos") or Settings()
    return wrap(dial, settings, feed.clock, feed=feed.name, counters=feed.counters)


@hookimpl
def commands(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``chaos``."""
    from . import _command

    _command.add(verbs)
