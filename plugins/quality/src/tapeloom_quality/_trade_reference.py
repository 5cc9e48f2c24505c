"""`TradeReference`: time, price and received ids of the trades of one subscription."""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING, Literal, TypeAlias

from ._reference import Reference

if TYPE_CHECKING:
    from ._rules import Rules

__all__ = ["IdState", "TradeReference"]

#: Ranges of missing ids kept per subscription. Bounds memory.
_MAX_MISSING_RANGES = 64
#: Text ids per set; between one and two sets of them are kept. Bounds memory.
_MAX_TEXT_IDS = 4096

#: "late": the id was missing, or is below the first one. "order": the numbering may have restarted.
IdState: TypeAlias = Literal["fresh", "late", "duplicate", "order"]


class TradeReference(Reference):
    """Reference of the trades of one symbol and channel.

    Integer ids are consecutive: all ids from `first_id` to `next_id - 1` were received, except the
    missing ranges. The last 64 of these are kept; a backfilled trade of an older one counts as late,
    because core fetches no trade twice. Text ids are kept individually: at least the last 4096.
    """

    __slots__ = (
        "_forgotten_id",
        "_history_range",
        "_missing_ranges",
        "_older_ids",
        "_recent_ids",
        "_restart_confirmations",
        "_restart_id",
        "first_id",
        "next_id",
    )

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules)
        self.first_id = 0
        self.next_id: int | None = None  #: the id that follows without a gap
        self._missing_ranges: list[tuple[int, int]] = []  # ascending, both ends inclusive
        self._forgotten_id = -1  # the highest id of the ranges that are not kept
        self._history_range: tuple[int, int] | None = None  # replayed ids before the first live one
        self._restart_confirmations = 0  # ids in a row that indicate a restart
        self._restart_id = 0  # the last of them
        self._recent_ids: set[int | str] = set()
        self._older_ids: set[int | str] = set()

    @property
    def needs_full_check(self) -> bool:
        """Whether the next trade needs the full check even if its id follows."""
        return self._restart_confirmations > 0

    def record_text_id(self, text_id: int | str) -> bool:
        """Record a text id; return whether it is new. An empty id always counts as new."""
        if not text_id:
            return True
        if text_id in self._recent_ids or text_id in self._older_ids:
            return False
        if len(self._recent_ids) >= _MAX_TEXT_IDS:
            self._older_ids = self._recent_ids
            self._recent_ids = set()
        self._recent_ids.add(text_id)
        return True

    def record_next_id(self, trade_id: int | str) -> int | None:
        """Record the id of a live trade if it is above all others, or a new text.

        Returns the number of ids missing before it; None if nothing was recorded.
        """
        if type(trade_id) is int:
            if self.next_id is None or trade_id < self.next_id:
                return None
            return self._advance(trade_id, self.next_id, is_live=True)
        return 0 if self.record_text_id(trade_id) else None

    def record_id(
        self, trade_id: int | str, *, is_live: bool, is_newest: bool, is_backfill: bool = False
    ) -> tuple[IdState, int]:
        """Record an id; return its state, and the number of ids missing before it.

        *is_newest*: the trade is later than all before it, so it cannot be a duplicate. *is_backfill*:
        it was fetched because it was missing.
        """
        if not isinstance(trade_id, int):
            return ("fresh" if self.record_text_id(trade_id) else "duplicate"), 0
        if self.next_id is None:
            return self._record_first(trade_id, is_live), 0
        if trade_id >= self.next_id:
            if is_live or trade_id == self.next_id:
                return "fresh", self._advance(trade_id, self.next_id, is_live=is_live)
            return "fresh", 0
        index = self._find_missing(trade_id)
        if is_live and is_newest and self._is_restart(trade_id, index):
            return "fresh", 0
        if index is not None:
            self._remove_missing(trade_id, index)
            return "late", 0
        if trade_id >= self.first_id:
            return ("late" if is_backfill and trade_id <= self._forgotten_id else "duplicate"), 0
        if not is_live:
            return "late", 0
        if is_newest:
            return "order", 0
        self._add_missing(trade_id + 1, self.first_id - 1)
        self.first_id = trade_id
        return "late", 0

    def _record_first(self, trade_id: int, is_live: bool) -> IdState:
        low, high = self._history_range or (trade_id, trade_id - 1)
        if is_live:
            joined = low <= trade_id <= high + 1
            self.first_id = low if joined else trade_id
            self.next_id = max(high, trade_id) + 1 if joined else trade_id + 1
            return "duplicate" if low <= trade_id <= high else "fresh"
        if low <= trade_id <= high:
            return "duplicate"
        joined = trade_id in (low - 1, high + 1)
        self._history_range = (
            (min(low, trade_id), max(high, trade_id)) if joined else (trade_id, trade_id)
        )
        return "fresh"

    def _advance(self, trade_id: int, expected: int, *, is_live: bool) -> int:
        self._add_missing(expected, trade_id - 1)
        self.next_id = trade_id + 1
        if is_live:
            self._restart_confirmations = 0
        return trade_id - expected

    def _is_restart(self, trade_id: int, index: int | None) -> bool:
        """Return whether the venue restarted its numbering: enough consecutive ids with newest times."""
        self._restart_confirmations = (
            self._restart_confirmations + 1
            if self._restart_confirmations and trade_id == self._restart_id + 1
            else 1
        )
        self._restart_id = trade_id
        if self._restart_confirmations < self._rules.confirmations:
            return False
        if index is None:
            self._missing_ranges.clear()
            self.first_id = trade_id - self._restart_confirmations + 1
        else:  # a single id was far too high
            low = self._missing_ranges[index][0]
            del self._missing_ranges[index:]
            if low < trade_id:
                self._missing_ranges.append((low, trade_id - 1))
        self.next_id = trade_id + 1
        self._restart_confirmations = 0
        return True

    def _find_missing(self, trade_id: int) -> int | None:
        for index, (low, high) in enumerate(self._missing_ranges):
            if low <= trade_id <= high:
                return index
        return None

    def _add_missing(self, low: int, high: int) -> None:
        if low > high:
            return
        insort(self._missing_ranges, (low, high))
        self._forget_oldest()

    def _remove_missing(self, trade_id: int, index: int) -> None:
        low, high = self._missing_ranges.pop(index)
        remaining = [(a, b) for a, b in ((low, trade_id - 1), (trade_id + 1, high)) if a <= b]
        self._missing_ranges[index:index] = remaining
        self._forget_oldest()

    def _forget_oldest(self) -> None:
        if len(self._missing_ranges) > _MAX_MISSING_RANGES:
            self._forgotten_id = max(self._forgotten_id, self._missing_ranges.pop(0)[1])
