"""Fills one gap: selects the missed events from the venue's history and derives the gap's state.

It does no I/O. `next_query` returns what to request next, `process` selects from an answer what was
missed, `report` returns the Gap with its current state.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Literal, Self, TypeAlias

from attrs import evolve

from tapeloom.events import Bar, Event, Gap, GapState, Trade
from tapeloom.plugin import HistoryQuery, Request, channel_parts

Kind: TypeAlias = Literal["trades", "bars"]
_KINDS: dict[str, Kind] = {"trades": "trades", "agg_trades": "trades", "klines": "bars"}
#: Maximum number of answers requested for one gap.
_MAX_PAGES = 100


def fill_kind(channel: str) -> Kind | None:
    """Return the kind of history that fills gaps of *channel*, None if they cannot be filled."""
    return _KINDS.get(channel_parts(channel)[0])


class GapFill:
    """One gap while it is being filled.

    *before* and *after* are the last event before the gap and the first one after it; *known*
    returns the ids of the trades received on both sides of it.
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
        self._kind = fill_kind(gap.channel) or "trades"
        self._interval = channel_parts(gap.channel)[1] if self._kind == "bars" else ""
        self._since = before.ts if before is not None else gap.since
        # An unclosed bar is fetched again; what the live stream delivers is not fetched.
        self._from = before.ts + 1 if isinstance(before, Bar) and before.closed else self._since
        self._until = after.ts if isinstance(after, Bar) else gap.until
        self._known = known
        self._seen: set[int | str | None] = set()
        self._pages = 0
        self._filled = 0
        self._reached_start = False  # the answers reach back to a known trade, or to the start
        self._reached_end = False
        ids = [event.id if isinstance(event, Trade) else None for event in (before, after)]
        self.set_ids(*ids)

    def set_ids(self, after_id: int | str | None, before_id: int | str | None) -> Self:
        """Set the ids of the last trade before the gap and of the first trade after it."""
        self._after_id = after_id
        self._before_id = before_id
        self._page_after_id = after_id if isinstance(after_id, int) else None
        self._seen |= {after_id, before_id}
        return self

    @property
    def has_numeric_ids(self) -> bool:
        """Whether the ids on both sides are numbers, so that they count what is missing."""
        return isinstance(self._after_id, int) and isinstance(self._before_id, int)

    @property
    def missing(self) -> int | None:
        """Number of events still missing; None where it is unknown."""
        if isinstance(self._after_id, int) and isinstance(self._before_id, int):
            return max(self._before_id - self._after_id - 1 - self._filled, 0)
        return 0 if self._reached_start and self._reached_end else None

    def next_query(self) -> HistoryQuery | None:
        """Return the next query to the venue's history; None where no more can be fetched."""
        if self.done or self._pages >= _MAX_PAGES or self.missing == 0:
            return None
        gap, after_id = self.gap, self._page_after_id
        return HistoryQuery(
            self._kind, gap.symbol, gap.channel, self._interval, self._since, gap.until, after_id
        )

    def process(self, events: Iterable[Event], request: Request) -> list[Event]:
        """Return the missed events of an answer, in order, with the origin "backfill"."""
        self._pages += 1
        missed = self._bars(events) if self._kind == "bars" else self._trades(events)
        self._filled += len(missed)
        if request.paged:
            self._reached_start = True
        if not missed and request.paged and request.page_end is not None:
            self._since = request.page_end  # this part of the gap is empty: go on with the next
            return missed
        if not missed or not (request.paged or self.has_numeric_ids):
            self.done = True
            self._reached_end = True
            return missed
        last = missed[-1]
        self._since = last.ts
        if isinstance(last, Trade) and isinstance(last.id, int) and self._page_after_id is not None:
            self._page_after_id = last.id
        return missed

    def _trades(self, events: Iterable[Event]) -> list[Event]:
        missed: list[Event] = []
        gap = self.gap
        self._seen.update(self._known())
        for event in events:
            if not isinstance(event, Trade):
                continue
            if event.id != "" and event.id in self._seen:
                self._reached_start = self._reached_start or event.id == self._after_id
                continue
            if self._is_inside(event):
                self._seen.add(event.id)
                missed.append(evolve(event, origin="backfill", channel=gap.channel))
        # A venue may return the newest first. Numeric ids give the order of trades with one time.
        return sorted(
            missed, key=lambda e: (e.ts, e.id if type(e) is Trade and self.has_numeric_ids else 0)
        )

    def _is_inside(self, trade: Trade) -> bool:
        if isinstance(trade.id, int):
            if isinstance(self._after_id, int) and trade.id <= self._after_id:
                return False
            if isinstance(self._before_id, int) and trade.id >= self._before_id:
                return False
            if self.has_numeric_ids:
                return True
        if trade.id == "":  # at the edges it cannot be distinguished from a delivered trade
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

    def report(self, recv: int) -> Gap:
        """Return the Gap with its current state and number of missing events."""
        missing = self.missing
        state: GapState = (
            "filled" if missing == 0 else "partial" if self._filled else "unrecoverable"
        )
        return evolve(self.gap, recv=recv, missing=missing, state=state)
