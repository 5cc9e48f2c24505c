"""What is remembered of one symbol's trades: time, price, and which ids have come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from ._line import Line

if TYPE_CHECKING:
    from ._rules import Rules

__all__ = ["Seen", "Series"]

_RANGES = 64
_NAMES = 4096

#: "late" is an id from a hole, or from before the first; "order" one that begins a series anew.
Seen: TypeAlias = Literal["fresh", "late", "duplicate", "order"]


class Series(Line):
    """One symbol's trades in one channel.

    Whole numbers are a series without holes: all from `first` to `next - 1` have come, but for the
    `missing` ranges (the last 64 are kept). Names are remembered one by one: at least the last 4096.
    """

    __slots__ = (
        "_missing",
        "_older",
        "_past",
        "_recent",
        "_run",
        "_tried",
        "excused",
        "first",
        "next",
    )

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules)
        self.first = 0
        self.next: int | None = None  #: the number that would follow without a hole
        self.excused = False  #: a Gap has already told of the next hole
        self._missing: list[tuple[int, int]] = []  # ascending, both ends missing
        self._past: tuple[int, int] | None = None  # ids of history from before the series
        self._run = 0  # so many ids in a row tell of a series that began anew
        self._tried = 0  # the last of them
        self._recent: set[int | str] = set()
        self._older: set[int | str] = set()

    @property
    def pending(self) -> bool:
        """Whether the next id must be looked at even if it follows."""
        return self.excused or self._run > 0

    def name(self, name: int | str) -> bool:
        """Remember a name; tell whether it is new. An empty one names nothing."""
        if not name:
            return True
        if name in self._recent or name in self._older:
            return False
        if len(self._recent) >= _NAMES:
            self._older = self._recent
            self._recent = set()
        self._recent.add(name)
        return True

    def see(self, number: int | str, *, live: bool, newer: bool) -> tuple[Seen, int]:
        """Enter an id; return what it is, and how many are missing before it.

        `newer` says that its trade is later than all before it: such a one cannot have come before.
        """
        if not isinstance(number, int):
            return ("fresh" if self.name(number) else "duplicate"), 0
        if self.next is None:
            return self._begin(number, live), 0
        if number >= self.next:
            if live or number == self.next:
                return "fresh", self._advance(number, self.next, live)
            return "fresh", 0
        place = self._place(number)
        if live and newer and self._anew(number, place):
            return "fresh", 0
        if place is not None:
            self._fill(number, place)
            return "late", 0
        if number >= self.first:
            return "duplicate", 0
        if not live:
            return "late", 0
        if newer:
            return "order", 0
        self._open(number + 1, self.first - 1)
        self.first = number
        return "late", 0

    def _begin(self, number: int, live: bool) -> Seen:
        low, high = self._past or (number, number - 1)
        if live:
            joined = low <= number <= high + 1
            self.first = low if joined else number
            self.next = max(high, number) + 1 if joined else number + 1
            return "duplicate" if low <= number <= high else "fresh"
        if low <= number <= high:
            return "duplicate"
        joined = number in (low - 1, high + 1)
        self._past = (min(low, number), max(high, number)) if joined else (number, number)
        return "fresh"

    def _advance(self, number: int, expected: int, live: bool) -> int:
        self._open(expected, number - 1)
        self.next = number + 1
        if live:
            self._run = 0
        return number - expected

    def _anew(self, number: int, place: int | None) -> bool:
        """Tell whether the venue numbers anew: ids in a row, each later than all before."""
        self._run = self._run + 1 if self._run and number == self._tried + 1 else 1
        self._tried = number
        if self._run < self._rules.confirm:
            return False
        if place is None:
            self._missing.clear()
            self.first = number - self._run + 1
        else:  # the id after which all seemed missing was wrong
            low = self._missing[place][0]
            del self._missing[place:]
            if low < number:
                self._missing.append((low, number - 1))
        self.next = number + 1
        self._run = 0
        return True

    def _place(self, number: int) -> int | None:
        for place, (low, high) in enumerate(self._missing):
            if low <= number <= high:
                return place
        return None

    def _open(self, low: int, high: int) -> None:
        if low > high:
            return
        self._missing.append((low, high))
        self._missing.sort()
        if len(self._missing) > _RANGES:
            del self._missing[0]

    def _fill(self, number: int, place: int) -> None:
        low, high = self._missing.pop(place)
        rest = [(a, b) for a, b in ((low, number - 1), (number + 1, high)) if a <= b]
        self._missing[place:place] = rest
        if len(self._missing) > _RANGES:
            del self._missing[0]
