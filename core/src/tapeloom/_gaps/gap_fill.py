"""Filling a hole: which of what the venue's history gives was missed, and what is to be said of it.

It asks for nothing itself. `wants` says what to ask for next, `take` what of an answer is new, and
`verdict` how it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Literal, Self, TypeAlias

from attrs import evolve

from tapeloom.events import Bar, Event, Gap, GapState, Trade
from tapeloom.plugin import HistoryQuery, Request, channel_parts

Kind: TypeAlias = Literal["trades", "bars"]
_KINDS: dict[str, Kind] = {"trades": "trades", "agg_trades": "trades", "klines": "bars"}
#: So many answers are asked for one hole, at most.
_PAGES = 100


def kind_of(channel: str) -> Kind | None:
    """Return what a channel is filled with, None for one that cannot be filled."""
    return _KINDS.get(channel_parts(channel)[0])


class GapFill:
    """One hole, while it is being filled.

    *before* and *after* are the last event that came before it and the first one after it; *known*
    returns the ids of trades that came, on both sides of it.
    """

    def __init__(
        self,
        gap: Gap,
        before: Event | None = None,
        after: Event | None = None,
        known: Callable[[], Collection[int | str]] = tuple,
    ) -> None:
        self.gap = gap
        self.done = False
        self._kind = kind_of(gap.channel) or "trades"
        self._interval = channel_parts(gap.channel)[1] if self._kind == "bars" else ""
        self._since = before.ts if before is not None else gap.since
        # A bar is told again until it is closed; what the live stream tells is not fetched.
        self._from = before.ts + 1 if isinstance(before, Bar) and before.closed else self._since
        self._until = after.ts if isinstance(after, Bar) else gap.until
        self._known = known
        self._seen: set[int | str | None] = set()
        self._pages = 0
        self._got = 0
        self._reached = False  # back to what is known, or to the beginning of the hole
        self._whole = False  # on to its end
        self.between(
            before.id if isinstance(before, Trade) else None,
            after.id if isinstance(after, Trade) else None,
        )

    def between(self, first: int | str | None, after: int | str | None) -> Self:
        """Set the ids of the last trade before the hole, and of the first one after it."""
        self._first = first
        self._next = after
        self._after = first if isinstance(first, int) else None
        self._seen |= {first, after}
        return self

    @property
    def numbered(self) -> bool:
        """Whether the ids on both sides tell what is missing."""
        return isinstance(self._first, int) and isinstance(self._next, int)

    @property
    def missing(self) -> int | None:
        """How many are still missing; None where nobody can tell."""
        if isinstance(self._first, int) and isinstance(self._next, int):
            return max(self._next - self._first - 1 - self._got, 0)
        return 0 if self._reached and self._whole else None

    def wants(self) -> HistoryQuery | None:
        """Return what to ask for next; None where nothing more is to be had."""
        if self.done or self._pages >= _PAGES or self.missing == 0:
            return None
        gap = self.gap
        return HistoryQuery(
            self._kind, gap.symbol, gap.channel, self._interval, self._since, gap.until, self._after
        )

    def take(self, events: Iterable[Event], request: Request) -> list[Event]:
        """Return what of an answer was missed, in order, marked as fetched later."""
        self._pages += 1
        fresh = self._bars(events) if self._kind == "bars" else self._trades(events)
        self._got += len(fresh)
        if request.paged:
            self._reached = True
        if not fresh and request.paged and request.page_end is not None:
            self._since = request.page_end  # nothing in this part of the hole: on to the next
            return fresh
        if not fresh or not (request.paged or self.numbered):
            self.done = True
            self._whole = True
            return fresh
        last = fresh[-1]
        self._since = last.ts
        if isinstance(last, Trade) and isinstance(last.id, int) and self._after is not None:
            self._after = last.id
        return fresh

    def _trades(self, events: Iterable[Event]) -> list[Event]:
        fresh: list[Event] = []
        gap = self.gap
        self._seen.update(self._known())
        for event in events:
            if not isinstance(event, Trade):
                continue
            if event.id != "" and event.id in self._seen:
                self._reached = self._reached or event.id == self._first
                continue
            if self._inside(event):
                self._seen.add(event.id)
                fresh.append(evolve(event, origin="backfill", channel=gap.channel))
        # A venue may give the newest first. Ids tell the order within one moment, where they count.
        return sorted(
            fresh, key=lambda e: (e.ts, e.id if type(e) is Trade and self.numbered else 0)
        )

    def _inside(self, trade: Trade) -> bool:
        if isinstance(trade.id, int):
            if isinstance(self._first, int) and trade.id <= self._first:
                return False
            if isinstance(self._next, int) and trade.id >= self._next:
                return False
            if self.numbered:
                return True
        if trade.id == "":  # at the edges nothing tells it from those that came
            return self._from < trade.ts < self.gap.until
        return self._from <= trade.ts <= self.gap.until

    def _bars(self, events: Iterable[Event]) -> list[Event]:
        return [
            evolve(event, origin="backfill", channel=self.gap.channel)
            for event in events
            if isinstance(event, Bar)
            and event.closed
            and self._from <= event.ts < self._until
            and event.ts not in self._seen
            and not self._seen.add(event.ts)  # type: ignore[func-returns-value]
        ]

    def verdict(self, recv: int) -> Gap:
        """Return how the hole stands now."""
        missing = self.missing
        verdict: GapState = (
            "filled" if missing == 0 else "partial" if self._got else "unrecoverable"
        )
        return evolve(self.gap, recv=recv, missing=missing, state=verdict)
