"""Lengths of bars, and where bars of a length begin."""

from __future__ import annotations

import attrs
from tapeloom.units import duration_ns

__all__ = ["Interval"]

_MILLISECOND = 1_000_000
_WEEK = 604_800_000_000_000
#: 1970-01-01 was a Thursday; the first Monday of the epoch came four days later.
_MONDAY = 345_600_000_000_000
_UNITS = (
    ("w", _WEEK),
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", _MILLISECOND),
)


@attrs.frozen
class Interval:
    """A length of time that bars are made of, in ns.

    Bars begin at whole multiples of `length` after 1970-01-01T00:00Z; whole weeks begin on a Monday.
    """

    name: str
    length: int
    offset: int = 0

    @classmethod
    def parse(cls, text: str) -> Interval:
        """Read ``"1m"``. `name` is spelled in the largest unit: ``"60s"`` becomes ``"1m"``.

        Raises ValueError where *text* is no duration, or not a whole number of milliseconds.
        """
        length = duration_ns(str(text))
        if length < _MILLISECOND or length % _MILLISECOND:
            raise ValueError(
                f"{text!r} is no length of a bar. Write whole milliseconds or more: '100ms', '1s', '1m', '1d'."
            )
        unit, size = next(pair for pair in _UNITS if not length % pair[1])
        return cls(f"{length // size}{unit}", length, _MONDAY if unit == "w" else 0)
