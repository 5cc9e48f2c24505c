"""Shows a stream on a page, and serves it to other programs from the same port.

This module has the hooks. `sink` is the sink of a stack, `settings` its settings, and `command` runs a
stack with it. `page` builds the page of each visitor out of `symbol_view` and `health_view`; `chart` turns
candles into the options of a chart, and `tables` rows into texts. `site` is the application, with `login` in
front of it; `stored` reads the candles of a store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom.hooks import hookimpl

from . import command
from .settings import Settings

if TYPE_CHECKING:
    import argparse

    from tapeloom.plugin import ObservingSink

__all__ = ["Settings"]


@hookimpl(specname="settings")
def _settings() -> type[Settings]:
    return Settings


@hookimpl(specname="sink")
def _sink(settings: Settings | None) -> ObservingSink:
    from .sink import WebSink  # imports the page, which takes memory where no page is shown

    return WebSink(settings or Settings())


@hookimpl(specname="commands")
def _commands(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command.add(verbs)
