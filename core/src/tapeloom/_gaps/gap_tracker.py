"""Makes the gaps of one feed: when they begin, when they end, and when a `Gap` is reported.

Each loss is reported once. A gap has one identity, its subscription, `since` and `after_id`, under which
it may be reported again: when it has ended, when more was lost before anything came, when it is filled.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

from attrs import evolve

from tapeloom.events import OURS, Bar, Event, Gap, GapCause
from tapeloom.plugin import Clock, HistoryQuery, Request, Subscription

from .gap_fill import GapFill, TrackedGap, fill_kind
from .last_seen import LastSeen
from .open_gap import OpenGap, Watched, id_of

#: Seconds after the venue's acknowledgement in which the first event is awaited: its time and id
#: describe the gap more precisely than the time of the acknowledgement.
_FIRST_EVENT_SECONDS = 5.0
#: Seconds for which late events of a gap are recognised after it was last reported.
_LATE_SECONDS = 60.0
#: In ns. The venue's clock was set back if it advances by so much less than ours; less is delay.
_SET_BACK = 1_000_000_000
#: In ns. How far before a gap events are doubtful at most: it may also be our clock that was set.
_MAX_SET_BACK = 60_000_000_000
_NONE: Mapping[Subscription, int] = MappingProxyType({})


class GapTracker:
    """Tracks the gaps of all subscriptions of a feed.

    `request` returns the REST request for a query, None if the venue cannot answer it; `enqueue` is
    called with a `GapFill` that has something to request.
    """

    def __init__(self, venue: str, clock: Clock, counters: Counter[str]) -> None:
        self.live: set[Subscription] = set()  #: those that have begun and not ended
        #: Subscriptions with gaps; while there are none, batches need not be processed.
        self.watched: dict[tuple[str, str], Watched] = {}
        self.request: Callable[[HistoryQuery], Request | None] = lambda query: None
        self.enqueue: Callable[[GapFill], None] = lambda fill: None
        self._venue = venue
        self.last_seen = LastSeen()
        self._clock = clock
        self._counters = counters

    # ------------------------------------------------------------------------------- where gaps begin

    def connection_lost(
        self,
        subscriptions: Iterable[Subscription],
        recv: int,
        maybe_stalled: Mapping[Subscription, int] = _NONE,
        *,
        separate: bool = False,
    ) -> None:
        """Open a gap for each of these that is live: their connection was lost.

        *recv* is the time of the last read. The gap of a *maybe_stalled* one begins no later than
        the time given for it. Both are ns on our clock. With *separate*, the subscriptions do not
        share a connection: an event of one of them does not show that the others were complete.
        """
        last_events, trade_ids = self.last_seen.last_events(), self.last_seen.trade_ids()
        offset = self.last_seen.clock_offset
        for subscription in [
            subscription for subscription in subscriptions if subscription in self.live
        ]:
            last = last_events.get(subscription)
            if last is not None:
                since = last.ts
            elif separate:
                since = recv + offset.offset(subscription.channel)
            else:
                since = self._complete_until(subscription, recv)
            if subscription in maybe_stalled:
                stalled_at = maybe_stalled[subscription] + offset.offset(subscription.channel)
                since = min(since, stalled_at)
            self._begin(subscription, since, "disconnect", last, trade_ids)

    def _complete_until(self, subscription: Subscription, recv: int) -> int:
        """Return until when a subscription without a last event is complete, on the venue's clock."""
        offset, channel = self.last_seen.clock_offset, subscription.channel
        return offset.last_ts(channel) or offset.latest_ts or recv + offset.offset(channel)

    def stalled(self, subscription: Subscription, now: int, silent_seconds: float) -> None:
        """Open a gap for a subscription that has stalled on a live connection.

        It is resubscribed: an earlier acknowledgement no longer counts.
        """
        # If our clock was set a moment ago, the venue's last event is closer to the venue's time.
        clock_offset, channel = self.last_seen.clock_offset, subscription.channel
        venue_now = now + clock_offset.offset(channel)
        if not clock_offset.has_offset:
            venue_now = clock_offset.last_ts(channel) or now
        last = self.last_seen.last_events().get(subscription)
        since = venue_now - round(silent_seconds * 1_000_000_000) if last is None else last.ts
        self._begin(subscription, since, "stall", last, self.last_seen.trade_ids())

    def _begin(
        self,
        subscription: Subscription,
        since: int,
        cause: GapCause,
        last: Event | None,
        trade_ids: Mapping[tuple[str, str], set[str]],
    ) -> None:
        """Open a gap. If one is open, it goes on: nothing has come since it opened."""
        watched = self._watch(subscription)
        if watched.open is not None:
            watched.open.confirmed = None
            return
        known: Collection[int | str] = trade_ids.get(subscription, ())
        if type(last) is Bar and last.closed:
            known = {last.ts}
        watched.open = OpenGap(since, cause, last, known)

    def _watch(self, subscription: Subscription) -> Watched:
        watched = self.watched.get(subscription)
        if watched is None:
            watched = self.watched[subscription] = Watched(GapFill(subscription))
        return watched

    # --------------------------------------------------------------------------- what a stage finds

    def open(
        self,
        symbol: str,
        channel: str,
        *,
        since: int,
        until: int,
        recv: int,
        cause: GapCause = "sequence",
        after_id: int | str | None = None,
        before_id: int | str | None = None,
        missing: int | None = None,
    ) -> list[Event]:
        """Return the gaps to report for a loss that a stage or source has found, and fill them.

        Empty if it was reported already. Where the ids on both sides are numbers, only the missing
        ids that no gap holds yet are reported, and those that follow in the same batch, out of
        order, are not missing.
        """
        subscription = Subscription(symbol, channel)
        watched = self.watched.get(subscription) or self._watch(subscription)
        parts: Sequence[tuple[int | str | None, int | str | None]]
        if type(after_id) is int and type(before_id) is int:
            parts = watched.parts_not_held(after_id, before_id)
        else:
            gaps = [
                tracked.gap for tracked in watched.fill if after_id in (None, tracked.gap.after_id)
            ]
            if any(gap.since <= since and until <= gap.until for gap in gaps):
                return []
            parts = [(after_id, before_id)]
        out: list[Event] = []
        for low, high in parts:
            found: set[int | str | tuple[str, int]] = set()
            position_id = None
            if type(low) is int and type(high) is int:
                position_id = low
                ids = self.last_seen.ids_in_last_batch(subscription)
                first, last = bisect_right(ids, low), bisect_left(ids, high)
                if first < last:
                    found.update(ids[first:last])
                missing = high - low - 1 - len(found)
                if not missing:
                    continue
            gap = Gap(
                self._venue, symbol, until, recv, since, until, cause, missing, "open", channel,
                low, high,
            )  # fmt: skip
            out += self._report(watched, TrackedGap(gap, since, position_id, 0, found))
        return out

    # -------------------------------------------------------------------------------- where they end

    def mark_live(
        self,
        batch: Iterable[Event],
        pending: Iterable[Subscription],
        wanted: Iterable[Subscription],
    ) -> set[Subscription]:
        """Mark *pending* subscriptions live that have an event before their acknowledgement.

        Return them.
        """
        new = set(pending) - self.live
        if new:
            new &= {Subscription(event.symbol, event.channel) for event in batch}
            new &= set(wanted)
            self.live |= new
        return new

    def confirmed(self, subscriptions: Iterable[Subscription], recv: int, at: float) -> None:
        """Let the gaps of these subscriptions end: the venue replied at *recv* in ns, *at* in seconds.

        Such a gap is reported with the first event, or by `overdue`.
        """
        for subscription in subscriptions:
            watched = self.watched.get(subscription)
            gap = watched.open if watched is not None else None
            if gap is not None and gap.confirmed is None:
                until = recv + self.last_seen.clock_offset.offset(subscription.channel)
                gap.confirmed = until, recv, at

    def process(self, batch: list[Event]) -> list[Event]:
        """Return *batch* with the gaps that it ends or fills, and without what was delivered already.

        To be called before the batch is added to the last seen events.
        """
        if not self.watched:
            return batch
        out: list[Event] | None = None
        for index, event in enumerate(batch):
            watched = self.watched.get((event.symbol, event.channel))
            delivered = [event]
            if watched is not None and type(event) not in OURS:
                delivered = self._deliver(watched, event, batch)
            if out is None and len(delivered) != 1:
                out = batch[:index]
            if out is not None:
                out += delivered
        return batch if out is None else out

    def _deliver(self, watched: Watched, event: Event, batch: list[Event]) -> list[Event]:
        """Return what to deliver for an event of *batch* whose subscription has gaps."""
        fill, gap = watched.fill, watched.open
        if gap is None or not gap.is_before(event) or fill.has_brought(event):
            delivered = fill.live(event)
            self._counters["repeated_trades"] += not delivered
            return delivered
        ended = self._end(watched, gap, event, batch)
        fill.record(event)
        return [*ended, event]

    def _end(self, watched: Watched, gap: OpenGap, event: Event, batch: list[Event]) -> list[Event]:
        """Return the reports of a gap that *event*, of *batch*, ends."""
        watched.open = None
        tracked, before_id = gap.reported, id_of(event)
        if tracked is None:
            return self._report_ended(watched, gap, event, batch)
        tracked.gap = evolve(tracked.gap, before_id=before_id)
        is_settled = tracked.missing == 0 and tracked.gap.state == "filled"
        if is_settled or (tracked.missing is None and event.ts <= tracked.gap.until):
            return []
        # The time of the acknowledgement on the venue's clock was an estimate.
        until = max(tracked.gap.until, event.ts)
        return self._report_again(watched, tracked, until, event.recv)

    def overdue(self, now: float) -> list[Event]:
        """Return a Gap for each subscription acknowledged a while ago without an event since.

        *now* is in monotonic seconds. Subscriptions without a recent gap are no longer watched.
        """
        gaps: list[Event] = []
        last = self.last_seen.last_recv
        for key, watched in list(self.watched.items()):
            gap = watched.open
            if gap is not None and gap.confirmed is not None:
                until, recv, at = gap.confirmed
                if now - at > _FIRST_EVENT_SECONDS:
                    gaps += self._report_open(watched, gap, until, max(recv, last), None)
            elif gap is None and now - watched.reported_at > _LATE_SECONDS:
                event = self.last_seen.last_event(key)
                can_fill = fill_kind(key[1]) is not None
                if not can_fill or (event is not None and watched.fill.is_over(event.ts)):
                    del self.watched[key]
        return gaps

    def close_all(self, now: int) -> list[Event]:
        """Return the final report of each gap at the end of the feed, *now* in ns on our clock."""
        gaps: list[Event] = []
        clock_offset = self.last_seen.clock_offset
        for watched in self.watched.values():
            gap, fill = watched.open, watched.fill
            watched.open = None
            if gap is not None:
                until = now + clock_offset.offset(fill.subscription.channel)
                if gap.confirmed is not None:
                    until = gap.confirmed[0]  # nothing was lost after it
                reports = self._report_open(watched, gap, until, now, None)
                gaps += [report for report in reports if report.state != "open"]  # type: ignore[union-attr]
            gaps += watched.fill.close_all(now)
        return gaps

    def forget(self, subscriptions: Collection[Subscription]) -> None:
        """Remove subscriptions that are no longer wanted, without reporting their gaps."""
        self.last_seen.forget(subscriptions)
        for subscription in subscriptions:
            self.live.discard(subscription)
            self.watched.pop(subscription, None)

    def fills(self) -> list[GapFill]:
        """Return the subscriptions with gaps that wait to be filled."""
        return [watched.fill for watched in self.watched.values() if watched.fill.waiting]

    # -------------------------------------------------------------------------------------- reports

    def _report_open(
        self, watched: Watched, gap: OpenGap, until: int, recv: int, before_id: int | str | None
    ) -> list[Event]:
        """Report a gap that was open until *until*; without *before_id* it may grow further."""
        subscription, until = watched.fill.subscription, max(gap.since, until)
        if gap.reported is not None:
            if until <= gap.reported.gap.until:
                return []
            return self._report_again(watched, gap.reported, until, recv)
        self.last_seen.clock_offset.mark_complete(subscription.channel, until)
        after_id, (symbol, channel) = id_of(gap.last), subscription
        gap.reported = TrackedGap(
            Gap(
                self._venue, symbol, until, recv, gap.since, until, gap.cause, None, "open", channel,
                after_id, before_id,
            ),
            gap.since,
            after_id if type(after_id) is int else None,
        )  # fmt: skip
        return self._report(watched, gap.reported, gap.known)

    def _report_ended(
        self, watched: Watched, gap: OpenGap, event: Event, batch: list[Event]
    ) -> list[Event]:
        """Report a gap for the first time, with the event of *batch* that ends it.

        If the venue's clock was set back meanwhile, missed events may have times of both clocks. Ids that
        are numbers tell them from what was delivered before; without them a part cannot be filled.
        """
        last, until, before_id = gap.last, event.ts, id_of(event)
        origin = getattr(event, "origin", "history")
        if last is None or origin == "history":
            return self._report_open(watched, gap, until, event.recv, before_id)
        elapsed, is_numbered = event.recv - last.recv, type(before_id) is int
        if event.ts < gap.since and not is_numbered:
            times = event.ts - abs(elapsed), last.ts + abs(elapsed)
            return [self._report_unfilled(watched, gap, event, *times, id_of(last), before_id)]
        # Past trades are older than their arrival; the newest of the batch tells the venue's time.
        received = batch if origin != "live" else [event]
        newest = max(other.ts for other in received if type(other) not in OURS)
        set_back = last.ts + elapsed - newest
        if set_back <= _SET_BACK:
            return self._report_open(watched, gap, until, event.recv, before_id)
        reports = self._report_open(watched, gap, last.ts + elapsed, event.recv, before_id)
        if not is_numbered:
            times = gap.since - min(set_back, _MAX_SET_BACK), gap.since
            reports.insert(0, self._report_unfilled(watched, gap, event, *times, None, None))
        return reports

    def _report_unfilled(
        self,
        watched: Watched,
        gap: OpenGap,
        event: Event,
        since: int,
        until: int,
        after_id: int | str | None,
        before_id: int | str | None,
    ) -> Event:
        """Report that events from *since* to *until* may be missing, without trying to fill them."""
        tracked = TrackedGap(
            Gap(
                self._venue, event.symbol, until, event.recv, since, until, gap.cause, None,
                "unrecoverable", event.channel, after_id, before_id,
            ),
            since,
        )  # fmt: skip
        watched.reported_at = self._clock.monotonic()
        watched.fill.past.append(tracked)
        self._counters["gaps"] += 1
        return tracked.gap

    def _report(
        self, watched: Watched, tracked: TrackedGap, known: Collection[int | str] = ()
    ) -> list[Event]:
        """Return the Gap to emit for a new gap, and let it be filled if the venue can answer."""
        fill = watched.fill
        watched.reported_at = self._clock.monotonic()
        self._counters["gaps"] += 1
        if tracked.gap.missing is None and (missing := tracked.missing) is not None:
            if missing == 0:
                fill.past.append(tracked)
                return [tracked.report(tracked.gap.recv, complete=False)]
            tracked.gap = evolve(tracked.gap, missing=missing)
        if not self._can_fill(watched, tracked):
            tracked.gap = evolve(tracked.gap, state="unrecoverable")
            fill.past.append(tracked)
            return [tracked.gap]
        given_up = fill.add(tracked, known)
        self._enqueue(fill)
        return [*given_up, tracked.gap]

    def _report_again(
        self, watched: Watched, tracked: TrackedGap, until: int, recv: int
    ) -> list[Event]:
        """Return the Gap to emit for one that was reported and has grown, or has ended, since."""
        watched.reported_at = self._clock.monotonic()
        tracked.gap = evolve(tracked.gap, ts=until, until=until, recv=recv, missing=tracked.missing)
        if tracked.missing == 0:
            return [watched.fill.close(tracked, recv)]
        can_fill = self._can_fill(watched, tracked)
        tracked.gap = evolve(tracked.gap, state="open" if can_fill else "unrecoverable")
        if can_fill:
            watched.fill.add_again(tracked)
            self._enqueue(watched.fill)
        return [tracked.gap]

    def _enqueue(self, fill: GapFill) -> None:
        if not fill.queued:
            fill.queued = True
            self.enqueue(fill)

    def _can_fill(self, watched: Watched, tracked: TrackedGap) -> bool:
        """Return whether the venue can answer a query for a gap; asked once per kind of query."""
        is_numbered = tracked.position_id is not None
        known = watched.can_fill.get(is_numbered)
        if known is None:
            fill = watched.fill
            known = fill_kind(fill.subscription.channel) is not None
            known = known and self.request(fill.query([tracked])) is not None
            watched.can_fill[is_numbered] = known
        return known
