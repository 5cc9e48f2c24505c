"""Parsers for durations (``500ms``), sizes (``500MB``), fractions (``10%``) and the HTTP header ``Retry-After``; rates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime

import attrs

__all__ = ["Rate", "duration_ns", "fraction", "retry_after", "size_bytes"]

#: The length of each unit of a duration, in ns.
_UNITS = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
    "w": 604_800_000_000_000,
}
_DURATION = re.compile(r"(\d+)\s*(ns|us|ms|s|m|h|d|w)")


@attrs.frozen
class Rate:
    """A rate limit: at most `count` within any `seconds`."""

    count: int  #: How many messages, requests or connections are allowed.
    seconds: float  #: The length of the window.


def duration_ns(text: str | int) -> int:
    """Parse a duration such as ``"500ms"`` or ``"1m"`` to nanoseconds; an integer is returned unchanged.

    Raises ValueError if *text* is not a duration.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(
            f"{text!r} is not a duration. Write a whole number and a unit: '500ms', '1m', '4h', '1d'."
        )
    return int(match[1]) * _UNITS[match[2]]


#: The number of bytes of each unit of a size.
_SIZES = {"B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4}
_SIZE = re.compile(r"(\d+)\s*(B|kB|KB|MB|GB|TB)")


def size_bytes(text: str | int) -> int:
    """Parse a size such as ``"500MB"`` to bytes; an integer is returned unchanged.

    Raises ValueError if *text* is not a size.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(
            f"{text!r} is not a size. Write a whole number and a unit: '64kB', '500MB', '2GB'."
        )
    return int(match[1]) * _SIZES[match[2]]


def fraction(text: str | float | Decimal) -> Decimal:
    """Parse ``"10%"`` or ``0.1`` to the fraction ``Decimal("0.1")``.

    Raises ValueError if *text* is not a fraction, or a number above 1 without the percent sign.
    """
    raw = str(text).strip()
    try:
        value = Decimal(raw[:-1]) / 100 if raw.endswith("%") else Decimal(raw)
    except InvalidOperation:
        value = Decimal("NaN")
    if isinstance(text, bool) or not value.is_finite():
        raise ValueError(f"{text!r} is not a fraction. Write '10%' or 0.1.")
    if value > 1 and not raw.endswith("%"):
        number, percent = f"{value.normalize():f}", f"{(value * 100).normalize():f}%"
        raise ValueError(
            f"{number} is {percent}. Write '{number}%', or '{percent}' if that is meant."
        )
    return value


def retry_after(headers: Mapping[str, str], now: int) -> float | None:
    """Return the pause that the header ``Retry-After`` of an HTTP answer requires, in seconds, or None.

    The header is a number of seconds or a date. A date is compared with the answer's own ``Date``, so
    that the venue's clock is compared with itself; without that header, with *now*, in ns.
    """
    lower = {str(name).lower(): str(text).strip() for name, text in headers.items()}
    value = lower.get("retry-after", "")
    if value.isascii() and value.isdecimal():
        return float(value)
    until = _date(value)
    if until is None:
        return None
    since = _date(lower.get("date", "")) or datetime.fromtimestamp(now / 1e9, UTC)
    return max((until - since).total_seconds(), 0.0)


def _date(text: str) -> datetime | None:
    """Parse an HTTP date in any of its three formats, which are all in UTC; None if it is not one."""
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)
