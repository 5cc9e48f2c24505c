"""Durations and fractions as people write them: ``500ms``, ``1m``, ``10%``."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

__all__ = ["duration_ns", "fraction"]

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
