"""Turns candles into the options of a chart of ECharts: candles, volume, marks of gaps and revisions.

A chart is a picture: its numbers are floats. The texts beside it have all digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from tapeloom_screens import Candle

__all__ = ["COLOURS", "gaps_in", "options", "update"]

_SECOND = 1_000_000_000
_DAY = 86_400 * _SECOND
#: Of what is drawn; each is told apart from both a dark and a light background.
COLOURS = {
    "up": "#26a69a",
    "down": "#ef5350",
    "gap": "rgba(255, 152, 0, 0.30)",
    "filled": "rgba(120, 144, 156, 0.18)",
    "revised": "#7e57c2",
    "incomplete": "#ff9800",
    "line": "rgba(128, 128, 128, 0.25)",
    "text": "#8a8f98",
}


def options(candles: Sequence[Candle], interval: int) -> dict[str, Any]:
    """Return the options of a chart of *candles* of an *interval* in ns."""
    grid_line = {"lineStyle": {"color": COLOURS["line"]}}
    label = {"color": COLOURS["text"], "hideOverlap": True}
    x = {
        "type": "category",
        "boundaryGap": True,
        "axisLine": grid_line,
        "axisTick": {"show": False},
    }
    y = {"scale": True, "position": "right", "axisLabel": label, "splitLine": grid_line}
    made: dict[str, Any] = {
        "animation": False,
        "backgroundColor": "transparent",
        "grid": [
            {"left": 8, "right": 72, "top": 12, "bottom": "30%"},
            {"left": 8, "right": 72, "height": "18%", "bottom": 28},
        ],
        "axisPointer": {"link": [{"xAxisIndex": "all"}]},
        "tooltip": {"trigger": "axis", "axisPointer": {"type": "cross"}, "confine": True},
        "dataZoom": [{"type": "inside", "xAxisIndex": [0, 1]}],
        "xAxis": [
            {**x, "axisLabel": {"show": False}},
            {**x, "gridIndex": 1, "axisLabel": label},
        ],
        "yAxis": [y, {**y, "gridIndex": 1, "splitNumber": 2, "splitLine": {"show": False}}],
        "series": [
            {
                "type": "candlestick",
                "name": "price",
                "itemStyle": {
                    "color": COLOURS["up"], "borderColor": COLOURS["up"],
                    "color0": COLOURS["down"], "borderColor0": COLOURS["down"],
                },
            },
            {"type": "bar", "name": "volume", "xAxisIndex": 1, "yAxisIndex": 1},
        ],
    }  # fmt: skip
    update(made, candles, interval)
    return made


def update(made: dict[str, Any], candles: Sequence[Candle], interval: int) -> None:
    """Put *candles* into options that `options` made."""
    times = [_time(candle.start, interval) for candle in candles]
    price, volume = made["series"]
    for axis in made["xAxis"]:
        axis["data"] = times
    # The order that ECharts wants: open, close, lowest, highest.
    price["data"] = [
        [*map(float, (candle.open, candle.close, candle.low, candle.high))] for candle in candles
    ]
    price["markArea"] = {"silent": True, "data": _gap_areas(candles, times)}
    price["markPoint"] = {"silent": True, "symbolSize": 9, "data": _points(candles, times)}
    volume["data"] = [
        {
            "value": float(candle.volume),
            "itemStyle": {
                "color": COLOURS["up" if candle.close >= candle.open else "down"], "opacity": 0.5
            },
        }
        for candle in candles
    ]  # fmt: skip


def gaps_in(candles: Sequence[Candle]) -> tuple[int, int]:
    """Return how many candles lack something, and in how many all gaps were filled."""
    filled = sum(candle.gap == "filled" for candle in candles)
    return sum(candle.gap != "" for candle in candles) - filled, filled


def _time(start: int, interval: int) -> str:
    at = datetime.fromtimestamp(start // _SECOND, UTC)
    if interval >= _DAY:
        return f"{at:%Y-%m-%d}"
    return f"{at:%m-%d %H:%M}" if interval >= 60 * _SECOND else f"{at:%H:%M:%S}"


def _gap_areas(candles: Sequence[Candle], times: Sequence[str]) -> list[Any]:
    """Return an area for each row of candles with a gap of the same kind: filled or not."""
    areas: list[Any] = []
    before = ""
    for candle, time in zip(candles, times, strict=True):
        kind = "" if not candle.gap else "filled" if candle.gap == "filled" else "gap"
        if kind and kind == before:
            areas[-1][1]["xAxis"] = time
        elif kind:
            style = {"color": COLOURS[kind]}
            areas.append([{"xAxis": time, "name": "", "itemStyle": style}, {"xAxis": time}])
        before = kind
    return areas


def _points(candles: Sequence[Candle], times: Sequence[str]) -> list[Any]:
    """Return a mark over each candle that was revised, or that is incomplete without a gap."""
    points = []
    for candle, time in zip(candles, times, strict=True):
        kind = "revised" if candle.revised else "incomplete" if not candle.complete else ""
        if kind:
            points.append(
                {
                    "coord": [time, float(candle.high)], "symbol": "triangle", "symbolOffset": [0, -9],
                    "symbolRotate": 180, "itemStyle": {"color": COLOURS[kind]}, "name": kind,
                }
            )  # fmt: skip
    return points
