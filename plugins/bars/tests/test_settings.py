"""What may stand under ``[stage.bars]``, and how the plugin is found."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest
import tapeloom_bars
from tapeloom.plugin import Feed, TimedStage
from tapeloom_bars import Settings


class StoppedClock:
    def time_ns(self):
        return 0

    def monotonic(self):
        return 0.0

    async def sleep(self, seconds):
        raise AssertionError("a stage does not wait")


def test_the_entry_point_names_this_plugin():
    (found,) = entry_points(group="tapeloom.plugins", name="bars")

    assert found.load() is tapeloom_bars


@pytest.mark.parametrize("settings", [None, Settings(every="1s")])
def test_aggregate_returns_a_timed_stage(settings):
    feed = Feed("f", "acme", settings=settings, clock=StoppedClock())

    assert isinstance(tapeloom_bars.aggregate(feed), TimedStage)
    assert tapeloom_bars.settings() is Settings


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("60s", "1m"),
        ("90s", "90s"),
        ("1m", "1m"),
        ("24h", "1d"),
        ("7d", "1w"),
        ("1500ms", "1500ms"),
    ],
)
def test_intervals_are_spelled_in_their_largest_unit(written, name):
    assert Settings(every=written).every == (name,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": ()}, "Give one or more"),
        ({"every": ("1m", "60s")}, "is given twice"),
        ({"every": "1x"}, "not a duration"),
        ({"every": "0s"}, "not a valid bar length"),
        ({"every": "1500us"}, "whole milliseconds"),
        ({"lateness": "soon"}, "not a duration"),
        ({"lateness": -1}, "Write 0 or more"),
        ({"keep": -1}, "Write 0 or more"),
        ({"fill_limit": 0}, "Write 1 or more"),
        ({"empty": "zero"}, "must be in"),
    ],
)
def test_an_invalid_setting_is_refused_with_the_allowed_values(settings, message):
    with pytest.raises(ValueError, match=message):
        Settings(**settings)
