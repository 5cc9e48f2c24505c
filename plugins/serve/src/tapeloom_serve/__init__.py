"""One feed for many programs: serves a stream to any number of clients.

This module has the hooks, `settings` the settings, and `sink` the sink of a stack. `publisher` brings
batches to `hub`, which distributes them; `selection` says who gets what, `latest` what late joiners get
first, and `lines` and `arrow` encode.
`streaming` is the endpoint, with the `messages` of the protocol; `window` has the newest trades and bars, and
`udf` serves the bars to charts. `app` is the ASGI application, which other packages can mount; `access` lets
in only who may come in; `server` runs it in a thread, and `guard` bounds what connections cost. `remote` is
the other end, a plugin of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom.hooks import hookimpl

from . import command
from .app import application, routes, stream_routes
from .hub import Hub
from .publisher import Publisher
from .server import ServerThread
from .settings import Settings
from .sink import ServeSink

if TYPE_CHECKING:
    import argparse

    from tapeloom.plugin import Sink

__all__ = [
    "Hub", "Publisher", "ServeSink", "ServerThread", "Settings", "application", "routes", "stream_routes",
]  # fmt: skip


@hookimpl(specname="settings")
def _settings() -> type[Settings]:
    return Settings


@hookimpl(specname="sink")
def _sink(settings: Settings | None) -> Sink:
    return ServeSink(settings or Settings())


@hookimpl(specname="commands")
def _commands(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command.add(verbs)
