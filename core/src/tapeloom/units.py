"""Durations and fractions as people write them (``500ms``, ``10%``), rates, and pauses as servers do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime

import attrs

__all__ = ["Rate", "duration_ns", "fraction", "retry_after"]

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
    """At most `count` in any `seconds`."""

    count: int
    seconds: float


def duration_ns(text: str | int) -> int:
    """Read a duration such as ``"500ms"`` or ``"1m"`` as nanoseconds; a whole number is taken as is.

    Raises ValueError where *text* is none.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(
            f"{text!r} is no duration. Write a whole number and a unit: '500ms', '1m', '4h', '1d'."
        )
    return int(match[1]) * _UNITS[match[2]]


def fraction(text: str | float | Decimal) -> Decimal:
    """Read ``"10%"`` or ``0.1`` as the fraction ``Decimal("0.1")``.

    Raises ValueError where *text* is none.
    """
    raw = str(text).strip()
    try:
        value = Decimal(raw[:-1]) / 100 if raw.endswith("%") else Decimal(raw)
    except InvalidOperation:
        value = Decimal("NaN")
    if isinstance(text, bool) or not value.is_finite():
        raise ValueError(f"{text!r} is no fraction. Write '10%' or 0.1.")
    return value


def retry_after(headers: Mapping[str, str], now: int) -> float | None:
    """Return the seconds of pause that the headers of an HTTP answer ask for; None: for none.

    ``Retry-After`` is a number of seconds or a date. A date is measured against the answer's own
    ``Date``, so that the venue's clock is compared with itself; where there is none, against *now*.
    """
    named = {str(name).lower(): str(value).strip() for name, value in headers.items()}
    asked = named.get("retry-after", "")
    if asked.isascii() and asked.isdecimal():
        return min(float(asked), _LONGEST)
    until = _date(asked)
    if until is None:
        return None
    since = _date(named.get("date", "")) or datetime.fromtimestamp(now / 1e9, UTC)
    return min(max((until - since).total_seconds(), 0.0), _LONGEST)


def _date(text: str) -> datetime | None:
    """Read a date of HTTP, in any of its three forms; they are all in UTC."""
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


#: No venue bans for longer than days: what asks for more is a mistake of the server.
_LONGEST = 7 * 86_400.0
