"""Metrics of a stream for Prometheus, health checks, alert rules and a Grafana board.

This module has the hooks, `settings` the settings. `metrics_sink` counts events with `counts`, whose `stalls`
finds stalled subscriptions; `collector` makes metrics of these counts and of the state of the stream;
`health` judges whether it is alive and ready, and `server` answers over HTTP. `command` writes the alert
rules and the board, which are files of this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tapeloom.hooks import hookimpl

from .settings import Settings

if TYPE_CHECKING:
    import argparse

    from tapeloom.plugin import ObservingSink

__all__ = ["Settings"]


@hookimpl
def settings() -> type[Any]:
    """Return the settings class of ``[[sink]]`` tables."""
    return Settings


@hookimpl
def sink(settings: Any) -> ObservingSink:
    """Return the sink."""
    # The command needs neither a server nor prometheus_client. A module named `sink` would take the
    # place of this function once it is imported.
    from .metrics_sink import MetricsSink

    return MetricsSink(settings or Settings())


@hookimpl
def commands(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``metrics``."""
    from .command import add

    add(verbs)
