"""Fills the reported gaps of one subscription from the venue's history.

It does no I/O. `next_query` returns what to request next, for as many gaps as one answer can fill;
`process` selects from the answer what was missed; `live` recognises what the stream brings late.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Literal, TypeAlias

from attrs import Factory, define, evolve

from tapeloom.events import Bar, Event, Gap, GapState, Trade
from tapeloom.plugin import HistoryQuery, Request, Subscription, channel_parts

Kind: TypeAlias = Literal["trades", "bars"]
_KINDS: dict[str, Kind] = {"trades": "trades", "agg_trades": "trades", "klines": "bars"}
#: Maximum number of answers requested for one gap.
_MAX_PAGES = 100
#: Gaps of one subscription that wait for an answer. If there are more, the oldest is given up.
_MAX_WAITING = 1000
#: Ids of delivered events that are remembered around the gaps of one subscription.
_MAX_KNOWN = 100_000
#: Gaps with a final state of which late events are still recognised.
_MAX_PAST = 64
_INFINITY = float("inf")


def fill_kind(channel: str) -> Kind | None:
    """Return the kind of history that fills gaps of *channel*, None if they cannot be filled."""
    return _KINDS.get(channel_parts(channel)[0])


@define(eq=False)
class TrackedGap:
    """A reported gap, and what was found of it since."""

    gap: Gap  #: as it was reported last
    #: The next answer is requested from this time in ns and, where ids are numbers, after this id.
    position: int
    position_id: int | None = None
    pages: int = 0  #: number of answers requested for it
    #: The ids of its events that were delivered since; of bars the times, of trades without id a number.
    found: set[int | str | tuple[str, int]] = Factory(set)
    before: Collection[int | str] = ()  #: ids of events delivered before it, around its begin

    @property
    def missing(self) -> int | None:
        """Number of events still missing by the ids on both sides; None if they do not count."""
        before_id, after_id = self.gap.before_id, self.gap.after_id
        if type(after_id) is int and type(before_id) is int:
            return max(before_id - after_id - 1 - len(self.found), 0)
        return None

    def _missing_between(self) -> int:
        """Return the number of ids missing between those found; 0 where ids are not numbers."""
        ids = [event_id for event_id in self.found if type(event_id) is int]
        if type(self.gap.after_id) is not int or not ids:
            return 0
        return max(ids) - self.gap.after_id - len(ids)

    def holds(self, event_id: int | str, ts: int) -> bool:
        """Return whether an event with this id and time lies in the gap."""
        gap = self.gap
        if type(event_id) is int and type(gap.after_id) is int:
            if event_id <= gap.after_id:
                return False
            if type(gap.before_id) is int:
                return event_id < gap.before_id
        if event_id == "":  # at the edges it cannot be distinguished from a delivered trade
            return gap.since < ts < gap.until
        return gap.since <= ts <= gap.until and event_id not in (gap.after_id, gap.before_id)

    def report(self, recv: int, *, complete: bool) -> Gap:
        """Return the Gap with its final state; *complete*: answers covered it from end to end."""
        missing = self.missing
        if missing is None and complete:
            missing = self._missing_between()
        final: GapState = "filled"
        if missing != 0:
            final = "partial" if self.found else "unrecoverable"
        gap = self.gap
        self.gap = Gap(
            gap.venue, gap.symbol, gap.ts, recv, gap.since, gap.until, gap.cause, missing, final,
            gap.channel, gap.after_id, gap.before_id,
        )  # fmt: skip
        return self.gap


class GapFill:
    """The reported gaps of one subscription."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.queued = False  #: until what was found of all that waits is emitted
        self.waiting: deque[TrackedGap] = deque()  #: not filled yet, oldest first
        self.past: deque[TrackedGap] = deque(maxlen=_MAX_PAST)  #: with a final state, oldest first
        self._kind = fill_kind(subscription.channel) or "trades"
        self._interval = channel_parts(subscription.channel)[1] if self._kind == "bars" else ""
        self._asked: Sequence[TrackedGap] = ()  # those that the last query was for
        self._asked_until = 0
        # Text ids, and times of bars, that the stream has delivered and that answers have brought.
        self._known: set[int | str] = set()
        self._brought: set[int | str] = set()

    def __iter__(self) -> Iterator[TrackedGap]:
        """Iterate over all gaps, the newest first."""
        return chain(reversed(self.waiting), reversed(self.past))

    @property
    def end_id(self) -> float:
        """The id of the first trade after all gaps; infinite if that of one is not known."""
        end: float = 0
        for gaps in (self.waiting, self.past):
            if gaps:
                before_id = gaps[-1].gap.before_id
                end = max(end, before_id) if type(before_id) is int else _INFINITY
        return end

    def add(self, tracked: TrackedGap, known: Collection[int | str] = ()) -> list[Event]:
        """Let a new gap wait to be filled; *known* are other ids around it that were delivered.

        Returns the final Gap of the oldest one if too many wait.
        """
        self._known.update(tracked.before, known)
        self.waiting.append(tracked)
        if len(self.waiting) <= _MAX_WAITING:
            return []
        oldest = self.waiting.popleft()
        self.past.append(oldest)
        return [oldest.report(tracked.gap.recv, complete=False)]

    def add_again(self, tracked: TrackedGap) -> None:
        """Let a gap that has grown wait to be filled, if it does not wait already."""
        if tracked not in self.waiting:
            self.past.remove(tracked)
            tracked.pages = 0
            self.waiting.append(tracked)

    def close(self, tracked: TrackedGap, recv: int, *, complete: bool = False) -> Gap:
        """Return a gap's final report; it waits no longer."""
        if tracked in self.waiting:
            self.waiting.remove(tracked)
            self.past.append(tracked)
        return tracked.report(recv, complete=complete)

    def is_over(self, ts: int) -> bool:
        """Return whether no gap waits, and all ended before *ts*, so that no new one overlaps them."""
        return not self.waiting and all(tracked.gap.until < ts for tracked in self.past)

    def close_all(self, recv: int) -> list[Event]:
        """Return the final report of each gap that still waits."""
        return [self.close(tracked, recv) for tracked in [*self.waiting]]

    def give_up(self, recv: int) -> list[Event]:
        """Return the final reports of the gaps that the last query was for: there is no answer."""
        asked = [tracked for tracked in self._asked if tracked in self.waiting]
        return [self.close(tracked, recv) for tracked in asked]

    # ------------------------------------------------------------------------------------- requests

    def next_query(self) -> HistoryQuery | None:
        """Return the query for what waits; None if nothing does."""
        self._asked = tuple(self.waiting)
        if not self._asked:
            return None
        query = self.query(self._asked)
        self._asked_until = query.until or 0
        return query

    def query(self, gaps: Sequence[TrackedGap]) -> HistoryQuery:
        """Return the query for *gaps*, the oldest first."""
        first, (symbol, channel) = gaps[0], self.subscription
        until = max(tracked.gap.until for tracked in gaps)
        return HistoryQuery(
            self._kind, symbol, channel, self._interval, first.position, until, first.position_id
        )

    def process(self, events: Iterable[Event], request: Request, recv: int) -> list[Event]:
        """Return what an answer fills: missed events with the origin "backfill", and final Gaps."""
        asked = [tracked for tracked in self._asked if tracked in self.waiting]
        if not asked:
            return []
        answer = _Answer(events, self._kind)
        out: list[Event] = []
        progress = answer.advances(asked[0]) or request.page_end is not None
        numbered = asked[0].position_id is not None
        exhausted = not progress or not (request.paged or numbered)
        asked[0].pages += 1
        for tracked in asked:
            out += self._missed(tracked, answer)
            has_grown = tracked.gap.until > self._asked_until  # since the answer was requested
            if tracked.missing == 0 or answer.covers(tracked) or (exhausted and not has_grown):
                complete = request.paged or answer.reaches_start(tracked)
                out.append(self.close(tracked, recv, complete=complete))
            elif tracked.pages >= _MAX_PAGES:
                out.append(self.close(tracked, recv))
            else:
                answer.advance(tracked, request.page_end)
        return out

    def _missed(self, tracked: TrackedGap, answer: _Answer) -> list[Event]:
        """Return the events of an answer that lie in a gap and were not delivered, in order."""
        missed: list[Event] = []
        for event_id, event in answer.within(tracked, self._known):
            if event_id == "":
                tracked.found.add(("", len(tracked.found)))
            elif event_id in tracked.found or event_id in self._known or event_id in self._brought:
                continue
            else:
                tracked.found.add(event_id)
                if type(event) is Bar or type(event_id) is str:
                    self._brought.add(event_id)  # another gap may begin at the same time
            missed.append(evolve(event, origin="backfill", channel=tracked.gap.channel))
        return missed

    # --------------------------------------------------------------------------------- live events

    def has_brought(self, event: Event) -> bool:
        """Return whether an answer has brought this live event already."""
        if type(event) is not Trade:
            return False
        if type(event.id) is str:
            return event.id in self._brought
        return (tracked := self._gap_with(event)) is not None and event.id in tracked.found

    def misses(self, event: Event) -> bool:
        """Return whether a trade lies in a gap, and has come neither since nor before it at the same time."""
        if type(event) is not Trade or (event.id != "" and event.id in self._known):
            return False
        return any(
            tracked.holds(event.id, event.ts) and event.id not in tracked.found for tracked in self
        )

    def live(self, event: Event) -> list[Event]:
        """Return what to deliver for a live *event*: it, and the final Gap if it completes one.

        Nothing if an answer has brought it already.
        """
        if type(event) is Trade and type(event.id) is int:
            tracked = self._gap_with(event)
            if tracked is not None:
                if event.id in tracked.found:
                    return []
                tracked.found.add(event.id)
                if tracked.missing == 0 and tracked.gap.state != "filled":
                    return [event, self.close(tracked, event.recv)]
        elif self.has_brought(event):
            return []
        else:
            self.record(event)
        return [event]

    def record(self, event: Event) -> None:
        """Record a live event without a numeric id, so that an answer does not bring it again."""
        if not self.waiting or event.ts > self.waiting[-1].gap.until:
            return
        if len(self._known) + len(self._brought) > _MAX_KNOWN:
            self._known.clear()
            self._brought.clear()
        if type(event) is Trade and type(event.id) is str:
            self._known.add(event.id)
        elif type(event) is Bar and event.closed:
            self._known.add(event.ts)

    def _gap_with(self, trade: Trade) -> TrackedGap | None:
        """Return the gap in which a trade with a numeric id lies, None if it lies in none."""
        if type(trade.id) is int and trade.id >= self.end_id:
            return None
        for tracked in self:
            if tracked.holds(trade.id, trade.ts):
                return tracked
        return None


#: The id of a trade, or the time of a bar, and the event.
_Row: TypeAlias = "tuple[int | str, Trade | Bar]"


class _Answer:
    """The events of one answer, in order, searched by id where ids are numbers, else by time."""

    def __init__(self, events: Iterable[Event], kind: Kind) -> None:
        rows: list[_Row] = []
        names: set[str] = set()  # a row may come twice
        for event in events:
            if kind == "trades" and type(event) is Trade:
                if type(event.id) is str and event.id:
                    if event.id in names:
                        continue
                    names.add(event.id)
                rows.append((event.id, event))
            elif kind == "bars" and type(event) is Bar and event.closed:
                rows.append((event.ts, event))
        self._is_numbered = kind == "trades" and all(type(row[0]) is int for row in rows)
        self._is_bars = kind == "bars"
        steps = [later[1].ts - row[1].ts for row, later in pairwise(rows)]
        if sum(step < 0 for step in steps) > sum(step > 0 for step in steps):
            rows.reverse()  # the newest came first
        if self._is_bars:
            rows.sort(key=lambda row: row[1].ts)
        elif self._is_numbered:
            rows.sort(key=lambda row: row[0])
        self._rows = rows
        self._keys = [row[0] if self._is_numbered else row[1].ts for row in rows]
        self._places = {row[0]: place for place, row in enumerate(rows) if row[0] != ""}
        self._last_ts = max((row[1].ts for row in rows), default=0)
        #: The highest id where ids are numbers.
        self._last_id = max((row[0] for row in rows if type(row[0]) is int), default=0)

    def within(self, tracked: TrackedGap, known: Collection[int | str]) -> list[_Row]:
        """Return the events in a gap, each with its id; *known* are ids around it."""
        gap, rows = tracked.gap, self._rows
        if self._is_bars:
            first, last = bisect_left(self._keys, gap.since), bisect_left(self._keys, gap.until)
            return rows[first:last]
        if self._is_numbered and type(gap.after_id) is int:
            first = bisect_right(self._keys, gap.after_id)
            rows = rows[first:]
            if type(gap.before_id) is int:
                return rows[: bisect_left(self._keys, gap.before_id) - first]
        elif not self._is_numbered:
            return self._named_within(gap, known)
        return [row for row in rows if tracked.holds(row[0], row[1].ts)]

    def _named_within(self, gap: Gap, known: Collection[int | str]) -> list[_Row]:
        """Return the trades in a gap where ids are texts.

        They lie between the trades on both sides of it; where the answer lacks one of these, their time
        decides. The order counts before the time, because the venue's clock may have been set.
        """
        rows, places = self._rows, self._places
        after, before = (places.get(named or "") for named in (gap.after_id, gap.before_id))
        if after is not None and before is not None and after > before:
            after, before = before, after  # within one moment the newest may come first
        since = gap.since if after is None else rows[after][1].ts
        until = gap.until if before is None else rows[before][1].ts
        found: list[_Row] = []
        is_after = False
        for place, (trade_id, trade) in enumerate(rows):
            ts = trade.ts
            # From the first row that is not older, the order counts.
            is_after = (is_after or ts >= since) if after is None else place > after
            is_before = ts <= until if before is None else place < before
            # The trades of one moment may stand on either side; those delivered are recognised by id.
            if after is None or gap.after_id in known:
                is_after, is_before = is_after or ts == since, is_before or ts == until
            # Without an id, a trade at the edges cannot be distinguished from a delivered one.
            is_edge = trade_id in (gap.after_id, gap.before_id) or (
                trade_id == "" and ts in (since, until)
            )
            if is_after and is_before and not is_edge:
                found.append((trade_id, trade))
        return found

    def covers(self, tracked: TrackedGap) -> bool:
        """Return whether the answer reaches past the end of a gap."""
        before_id = tracked.gap.before_id
        if self._is_numbered and type(before_id) is int:
            return self._last_id >= before_id - 1
        if self._is_bars:
            return self._last_ts >= tracked.gap.until
        if before_id is not None and before_id in self._places:
            return True
        return bool(self._rows) and self._rows[-1][1].ts > tracked.gap.until

    def reaches_start(self, tracked: TrackedGap) -> bool:
        """Return whether the answer reaches back to the last event before a gap.

        Where trades have ids, neither their times nor a trade that came late, after the gap, are a sign.
        """
        gap, rows, places = tracked.gap, self._rows, self._places
        if gap.after_id in places or not rows:
            return bool(rows)
        if self._is_bars or self._is_numbered or gap.after_id is None:
            return rows[0][1].ts < gap.since
        end = rows[places.get(gap.before_id or "", 0)]
        return rows[0][0] in tracked.before and rows[0][1].ts < end[1].ts

    def advances(self, tracked: TrackedGap) -> bool:
        """Return whether the answer reaches beyond where the gap's last one ended."""
        if tracked.position_id is not None and self._is_numbered:
            return self._last_id > tracked.position_id
        return self._last_ts > tracked.position

    def advance(self, tracked: TrackedGap, page_end: int | None) -> None:
        """Move the position from which the next answer is requested to the end of this one."""
        tracked.position = max(tracked.position, self._last_ts, page_end or 0)
        if tracked.position_id is not None:
            tracked.position_id = max(tracked.position_id, self._last_id)
