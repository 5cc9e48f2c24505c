"""Compares the copies of a shard: which of them is ahead, and whether they say the same.

Like the merge, it is a function of the messages, with one exception: who was ahead in the last minute is not
known after a restart, so the status about it may come once more, or a minute later.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Mapping
from operator import attrgetter
from statistics import median
from typing import Any

from tapeloom.events import Book, Event, Quote, Reject, Status, Trade

from .recognition import WINDOW

__all__ = ["Lead", "Unconfirmed", "conflict"]

#: In ns. A shard has one status in this time at most.
_INTERVAL = 60_000_000_000
#: How many of the latest leads of a slot the median is of.
_MAX_SAMPLES = 1000
#: A slot is ahead if it was first so many times as often as any other: equal ones take no turns.
_CLEAR = 1.5

#: What two copies of a numbered event must agree on, besides what they are recognised by.
_CONTENT: Mapping[type, Callable[[Any], tuple[Any, ...]]] = {
    Trade: attrgetter("ts", "price", "size", "side"),
    Quote: attrgetter("bid", "bid_size", "ask", "ask_size"),
    Book: attrgetter("first_id", "previous_id", "raw_bids", "raw_asks"),
}


class Lead:
    """Which slot of a shard delivers first, and by how much."""

    def __init__(self, shard: str, count: Callable[[str, int], None]) -> None:
        self.nodes: dict[int, str] = {}  #: the name of the node by slot
        self._shard = shard
        self._count = count
        self._firsts: Counter[int] = Counter()
        self._leads: dict[int, deque[int]] = {}
        self._ahead: int | None = None
        self._due = 0

    def add(self, first: int, lead: int) -> None:
        """Take note that the slot *first* was earlier by *lead*, in ns."""
        self._count(f"replica_first.{first}", 1)
        self._count(f"replica_lead_us.{first}", lead // 1000)
        self._firsts[first] += 1
        leads = self._leads.get(first)
        if leads is None:
            leads = self._leads[first] = deque(maxlen=_MAX_SAMPLES)
        leads.append(lead)

    def report(self, event: Event, at: int) -> list[Event]:
        """Return a status if another slot is ahead than before, with *event*; looked at once a minute.

        *at* is the time of the merge, in ns.
        """
        if at < self._due:
            return []
        is_first, self._due = not self._due, (at // _INTERVAL + 1) * _INTERVAL
        firsts, leads = self._firsts, self._leads
        if is_first or not firsts:
            return []
        self._firsts, self._leads = Counter(), {}
        (slot, count), *others = firsts.most_common(2)
        if slot == self._ahead or (others and count < _CLEAR * others[0][1]):
            return []
        self._ahead = slot
        node = f"node {self.nodes[slot]}" if self.nodes.get(slot) else f"slot {slot}"
        detail = (
            f"shard {self._shard}: {node} was first with {count:,} of {firsts.total():,} events,"
            f" p50 {median(leads[slot]) / 1e6:.2f} ms before the next copy"
        )
        return [Status(event.venue, "", event.recv, event.recv, "replica_ahead", detail)]


class Unconfirmed:
    """The numbered events that one slot has brought, and another one has not yet.

    They are kept for half of `WINDOW` to all of it, or until they have come again.
    """

    def __init__(self) -> None:
        self._newer: dict[Hashable, Event] = {}
        self._older: dict[Hashable, Event] = {}
        self._period = 0

    def advance(self, at: int) -> None:
        """Forget what is too old at *at*, in ns."""
        period = at // (WINDOW // 2)
        if period != self._period:
            self._older = self._newer if period == self._period + 1 else {}
            self._newer, self._period = {}, period

    def add(self, key: Hashable, event: Event) -> None:
        """Keep an event until it comes again."""
        if _has_number(event):
            self._newer[key] = event

    def get(self, key: Hashable, *, is_last: bool) -> Event | None:
        """Return the event that came first; forget it if this is its last repetition."""
        for kept in (self._newer, self._older):
            if key in kept:
                return kept.pop(key) if is_last else kept[key]
        return None

    def __len__(self) -> int:
        return len(self._newer) + len(self._older)


def _has_number(event: Event) -> bool:
    """Return whether a venue gives no two events of this kind the same number."""
    kind = type(event)
    return (
        (kind is Trade and event.id != "")  # type: ignore[union-attr]
        or (kind is Quote and event.sequence is not None)  # type: ignore[union-attr]
        or (kind is Book and event.last_id is not None)  # type: ignore[union-attr]
    )


def conflict(first: Event, second: Event) -> Reject | None:
    """Return a reject of *second* if two copies of an event differ; a value that one lacks is no difference."""
    content = _CONTENT[type(first)]
    if type(second) is not type(first):
        return None
    had, has = content(first), content(second)
    if had == has or not any(
        a != b for a, b in zip(had, has, strict=True) if a is not None and b is not None
    ):
        return None
    evidence = f"another copy has {_text(had)} under this number, this one {_text(has)}"
    return Reject(
        second.venue, second.symbol, second.ts, second.recv, "duplicate", evidence, second,
        second.channel,
    )  # fmt: skip


def _text(values: tuple[Any, ...]) -> str:
    return ", ".join(map(str, values))[:200]
