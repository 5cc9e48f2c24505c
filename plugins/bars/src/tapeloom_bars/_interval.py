"""`Interval`: the length of a bar and the alignment of its start."""

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
    """Length of a bar, in ns.

    Bars start at whole multiples of `length` after 1970-01-01T00:00Z; bars of whole weeks start on a Monday.
    """

    name: str
    length: int
    offset: int = 0

    @classmethod
    def parse(cls, text: str) -> Interval:
        """Parse a duration such as ``"1m"``. `name` uses the largest unit: ``"60s"`` becomes ``"1m"``.

        Raises ValueError if *text* is not a duration of a whole number of milliseconds.
        """
        length = duration_ns(str(text))
        if length < _MILLISECOND or length % _MILLISECOND:
            raise ValueError(
                f"{text!r} is not a valid bar length. Write whole milliseconds or more: '100ms', '1s', '1m', '1d'."
            )
        unit, size = next(pair for pair in _UNITS if not length % pair[1])
        return cls(f"{length // size}{unit}", length, _MONDAY if unit == "w" else 0)
