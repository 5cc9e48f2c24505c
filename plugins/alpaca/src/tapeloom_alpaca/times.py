"""Alpaca's times: RFC 3339 texts, as ns since 1970."""

from __future__ import annotations

import re
from datetime import datetime

from tapeloom.events import utc

__all__ = ["format_time", "parse_time"]

#: Number of times that are cached, to bound the memory.
_MAX_CACHED_TIMES = 4096
#: Nanoseconds in a unit of the last digit, by the number of digits of a fraction of a second.
_SCALES: list[int] = [10 ** (9 - digits) for digits in range(10)]
#: A time with an offset other than Z: date and time of day, fraction of a second, offset.
_OFFSET_TIME = re.compile(r"(.{19})(?:\.(\d+))?([+-]\d\d:\d\d)", re.ASCII)


class _SecondsCache(dict[str, int]):
    """Times in ns since 1970, by their first 19 characters, which most times share with others."""

    def __missing__(self, text: str) -> int:
        if len(self) > _MAX_CACHED_TIMES:
            self.clear()
        seconds_ns = int(datetime.fromisoformat(f"{text}+00:00").timestamp()) * 1_000_000_000
        self[text] = seconds_ns
        return seconds_ns


_seconds = _SecondsCache()


def parse_time(text: str) -> int:
    """Return an RFC 3339 time as ns since 1970. Digits below the nanosecond are cut off.

    Raises ValueError if *text* is not such a time.
    """
    if text[-1:] != "Z":
        match = _OFFSET_TIME.fullmatch(text)
        if match is None:
            raise ValueError(f"expected a time such as '2021-02-22T15:51:44.208Z', got {text!r}")
        seconds = int(datetime.fromisoformat(match[1] + match[3]).timestamp())
        return seconds * 1_000_000_000 + _parse_fraction((match[2] or "0")[:9])
    seconds_ns = _seconds[text[:19]]
    digits = text[20:-1][:9] if text[19] == "." else text[19:-1] or "0"
    return seconds_ns + _parse_fraction(digits)


def _parse_fraction(digits: str) -> int:
    """Return the ns of the digits of a fraction of a second."""
    if not digits.isdecimal():
        raise ValueError(f"expected the digits of a fraction of a second, got {digits!r}")
    return int(digits) * _SCALES[len(digits)]


def format_time(ts: int) -> str:
    """Return ns since 1970 as an RFC 3339 time with nine digits of the second."""
    return f"{utc(ts):%Y-%m-%dT%H:%M:%S}.{ts % 1_000_000_000:09d}Z"
