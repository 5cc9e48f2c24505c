"""Validation stage: checks trades, quotes, books, bars and tickers, and replaces invalid events by rejects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom.hooks import hookimpl

from ._settings import RULES, TYPES, Settings
from ._stage import quality

if TYPE_CHECKING:
    from tapeloom.plugin import Feed, Stage

__all__ = ["RULES", "TYPES", "Settings"]


@hookimpl(specname="settings")
def _settings() -> type[Settings]:
    return Settings


@hookimpl(specname="validate")
def _validate(feed: Feed) -> Stage:
    return quality(feed.settings or Settings(), feed.counters, feed.gaps)
