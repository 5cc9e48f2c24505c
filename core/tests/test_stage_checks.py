"""Stages say which types of events they use and add; a stack that gives them none is a mistake."""

from __future__ import annotations

from typing import Any

import pytest
from tapeloom import Registry
from tapeloom._compose.composer import compose
from tapeloom._config import FeedSpec, Stack
from tapeloom._runtime.system_clock import SystemClock
from tapeloom.hooks import hookimpl


class Plugin:
    """A plugin with the hooks that are set on it."""


def stage(hook: str, **attributes: Any) -> Any:
    """Return a plugin whose stage, returned by *hook*, passes everything and has these attributes."""

    def passing(events: list[Any]) -> list[Any]:
        return events

    for name, value in attributes.items():
        setattr(passing, name, frozenset(value))
    plugin = Plugin()
    setattr(plugin, hook, hookimpl(lambda feed: passing, specname=hook))
    return plugin


PLUGINS = {
    "check": stage("validate", uses=["trade", "quote"]),
    "check_bars": stage("validate", uses=["bar"]),
    "bars": stage("aggregate", uses=["trade"], adds=["bar"]),
    "trend": stage("aggregate", uses=["bar"]),
    "unknown": stage("aggregate"),
}


def problems(registry: Registry, channels: list[str], stages: list[str]) -> list[str]:
    for name, plugin in PLUGINS.items():
        registry.register(plugin, name)
    stack = Stack(feeds=(FeedSpec("acme", ["BTC/USD"], channels, stages=stages),))
    found = [str(mistake) for mistake in compose(stack, registry, SystemClock()).mistakes]
    return [text for text in found if "acme has no channel" not in text]


@pytest.mark.parametrize(
    ("channels", "stages"),
    [
        (["trades"], ["check", "bars"]),
        (["agg_trades"], ["bars", "trend"]),  # a stage adds what the next one uses
        (["klines:1m"], ["trend"]),
        (["x-own"], ["bars"]),  # a venue's own channel may have any events
        (["quotes"], ["unknown", "bars"]),  # so may a stage that does not say what it adds
        (["trades"], ["bars", "check_bars"]),  # it checks what the stage before it adds
        (["trades"], ["unknown", "check"]),
    ],
)
def test_stages_that_get_what_they_use_are_no_mistake(
    registry: Registry, channels: list[str], stages: list[str]
) -> None:
    assert problems(registry, channels, stages) == []


@pytest.mark.parametrize(
    ("channels", "stages", "problem"),
    [
        (
            ["quotes", "klines:1m"],
            ["bars"],
            "channels: the stage 'bars' would do nothing: it uses events of the type trade. Add 'trades' or 'agg_trades' to the channels.",
        ),
        (
            ["trades"],
            ["trend", "bars"],  # the bars are added too late for it
            "channels: the stage 'trend' would do nothing: it uses events of the type bar. Add 'klines' to the channels.",
        ),
        (
            ["trades"],
            ["bars", "check"],
            "stages: 'bars' stands before 'check', and would use each trade before it is checked. Write stages = [\"check\", \"bars\"].",
        ),
        (
            ["trades"],
            ["unknown", "bars", "trend", "check"],
            'stages: \'bars\' stands before \'check\', and would use each trade before it is checked. Write stages = ["unknown", "check", "bars", "trend"].',
        ),
    ],
)
def test_a_stage_without_events_and_a_late_check_are_mistakes(
    registry: Registry, channels: list[str], stages: list[str], problem: str
) -> None:
    assert problems(registry, channels, stages) == [f"feed[0].{problem}"]
