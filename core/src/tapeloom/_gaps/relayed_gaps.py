"""The gaps of a relayed venue: those that came with its events, and those that a stage finds here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from attrs import evolve

from tapeloom.events import Event, Gap
from tapeloom.plugin import Loss, UnfilledGaps

#: How many gaps of a subscription are kept to recognise; a stage finds a gap soon after it was reported.
_KEPT = 64


class RelayedGaps(UnfilledGaps):
    """Makes a gap only of a loss that no gap in the stream has reported. None can be filled here."""

    def __init__(self, venue: str) -> None:
        super().__init__(venue)
        self._known: dict[tuple[str, str], deque[Gap]] = {}

    def record(self, gaps: Iterable[Event]) -> None:
        """Take note of gaps that the stream has reported."""
        for gap in gaps:
            if type(gap) is Gap:
                key = gap.symbol, gap.channel
                self._known.setdefault(key, deque(maxlen=_KEPT)).append(gap)

    def open(self, loss: Loss) -> list[Event]:
        """Return the parts of a loss that are not reported yet, as gaps."""
        # An event about a whole feed has no symbol or no channel.
        keys = [(s, c) for s in (loss.symbol, "") for c in (loss.channel, "")]
        known = [gap for key in keys for gap in self._known.get(key, ())]
        if any(gap.since <= loss.since and loss.until <= gap.until for gap in known):
            return []
        parts = [loss]
        if isinstance(loss.after_id, int) and isinstance(loss.before_id, int):
            parts = [
                evolve(loss, after_id=low, before_id=high, missing=None)
                for low, high in _parts_not_in(known, loss.after_id, loss.before_id)
            ]
        made: list[Event] = []
        for part in parts:
            made += super().open(part)
        self.record(made)
        return made


def _parts_not_in(gaps: Iterable[Gap], after_id: int, before_id: int) -> list[tuple[int, int]]:
    """Return the ranges of ids between *after_id* and *before_id* that no gap holds."""
    held = sorted(
        (gap.after_id, gap.before_id)
        for gap in gaps
        if isinstance(gap.after_id, int) and isinstance(gap.before_id, int)
    )
    parts: list[tuple[int, int]] = []
    low = after_id
    for first, last in held:
        if low + 1 < min(first + 1, before_id):
            parts.append((low, min(first + 1, before_id)))
        low = max(low, last - 1)
    if low + 1 < before_id:
        parts.append((low, before_id))
    return parts
