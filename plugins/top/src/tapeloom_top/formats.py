"""Numbers and durations as short texts."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

SECOND = 1_000_000_000


def number(value: Decimal | None, width: int = 0) -> str:
    """Return *value* without zeros at its end, cut to *width* characters if given; "" for None."""
    if value is None:
        return ""
    text = f"{value:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    if width and len(text) > width:
        whole, dot, _ = text.partition(".")
        # A number is never cut before its point: that would be another number.
        text = text[:width].rstrip(".") if dot and len(whole) <= width else f"{value:.2e}"
    return text


def count(value: float) -> str:
    """Return a count or rate in at most six characters: 7.5, 1234, 56.7k, 1.2M."""
    if value >= 1_000_000:
        return f"{value / 1_000_000:.1f}M"
    if value >= 10_000:
        return f"{value / 1_000:.1f}k"
    if value and value < 10 and value != int(value):
        return f"{value:.1f}"
    return f"{value:.0f}"


def duration(ns: int | None) -> str:
    """Return a duration in at most five characters: 850µs, 12ms, 3.4s, 5m, 2h, 3d; "" for None."""
    if ns is None:
        return ""
    if ns < 0:
        return f"-{duration(-ns)}"
    if ns < 1_000_000:
        return f"{ns // 1_000}µs"
    if ns < SECOND:
        return f"{ns // 1_000_000}ms"
    seconds = ns / SECOND
    for limit, length, unit in ((60, 1, "s"), (3_600, 60, "m"), (86_400, 3_600, "h")):
        if seconds < limit:
            return (
                f"{seconds / length:.1f}{unit}"
                if seconds < 10 * length
                else f"{seconds // length:.0f}{unit}"
            )
    return f"{seconds / 86_400:.0f}d"


def clock(ns: int) -> str:
    """Return a time of day in UTC, such as 12:03:04."""
    return f"{datetime.fromtimestamp(ns / SECOND, UTC):%H:%M:%S}"
