"""Makes the gaps of one feed: when they begin, when they end, and when a `Gap` is reported.

Each loss is reported once. A gap has one identity, its subscription, `since` and `after_id`, under which
it may be reported again: when it has ended, when more was lost before anything came, when it is filled.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

from attrs import evolve

from tapeloom.events import OURS, Bar, Event, Gap, GapCause
from tapeloom.plugin import Clock, HistoryQuery, Loss, Request, Subscription

from .clock_readings import CLOCK_STEP, ClockReadings
from .gap_fill import GapFill, TrackedGap, fill_kind
from .last_seen import LastSeen
from .open_gap import LastStored, OpenGap, Watched, id_of

#: Seconds after the venue's acknowledgement in which the first event is awaited: its time and id
#: describe the gap more precisely than the time of the acknowledgement.
_FIRST_EVENT_SECONDS = 5.0
#: Seconds for which late events of a gap are recognised after it was last reported.
_LATE_SECONDS = 60.0
_NONE: Mapping[Subscription, int] = MappingProxyType({})
_Id: TypeAlias = int | str | None


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
        self.clocks = ClockReadings(clock, self.last_seen)
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
        last_events, trade_ids = self.clocks.check(), self.last_seen.trade_ids()
        self.clocks.read_newest()
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
        last = self.clocks.check().get(subscription)
        # If our clock was set a moment ago, the venue's last event is closer to the venue's time.
        clock_offset, channel = self.last_seen.clock_offset, subscription.channel
        venue_now = now + clock_offset.offset(channel)
        if not clock_offset.has_offset:
            venue_now = clock_offset.last_ts(channel) or now
        since = venue_now - round(silent_seconds * 1_000_000_000) if last is None else last.ts
        self._begin(subscription, since, "stall", last, self.last_seen.trade_ids())

    def resume(
        self,
        subscription: Subscription,
        since: int,
        last: Event | LastStored | None,
        known: Collection[int | str],
        unfilled: Iterable[tuple[Gap, Collection[int | str]]] = (),
    ) -> list[Event]:
        """Open a gap after what an earlier run has delivered; return the reports of *unfilled* ones.

        *since* is the time of the last event in ns, *last* the last trade or bar, *known* are the ids of
        the last trades. Each of *unfilled* was reported without a final state; the ids are those of its
        events that were delivered since.
        """
        self._begin(subscription, since, "restart", last, {subscription: set(map(str, known))})
        watched, reports = self._watch(subscription), list[Event]()
        last_id, now = id_of(last), self._clock.time_ns()
        for gap, found in unfilled:
            before_id = gap.before_id
            if before_id is None and gap.after_id == last_id and gap.since >= since:
                continue  # the new gap begins with the same event
            if before_id is None and type(last_id) is int:
                before_id = last_id + 1  # what is missing after that lies in the new gap
            after_id = gap.after_id if type(gap.after_id) is int else None
            gap = evolve(gap, recv=now, before_id=before_id, missing=None)
            tracked = TrackedGap(gap, gap.since, after_id, 0, {*found})
            reports += self._report(watched, tracked, {*known, *found})
        return reports

    def _begin(
        self,
        subscription: Subscription,
        since: int,
        cause: GapCause,
        last: Event | LastStored | None,
        trade_ids: Mapping[tuple[str, str], set[str]],
    ) -> None:
        """Open a gap. If one is open, it goes on: nothing has come since it opened."""
        watched = self._watch(subscription)
        if watched.open is not None:
            watched.open.confirmed = None
            watched.open.has_grown = watched.open.reported is not None
            return
        known: Collection[int | str] = trade_ids.get(subscription, ())
        is_stored_bar = type(last) is LastStored and last.id == ""
        if last is not None and (is_stored_bar or (type(last) is Bar and last.closed)):
            known = {last.ts}
        opened = self._clock.monotonic(), self.clocks.own_offset()
        age = 0 if last is None else max(self._clock.time_ns() - last.recv, 0)
        watched.open = OpenGap(since, cause, last, known, opened, opened[0] - age / 1e9)

    def _watch(self, subscription: Subscription) -> Watched:
        watched = self.watched.get(subscription)
        if watched is None:
            watched = self.watched[subscription] = Watched(GapFill(subscription))
        return watched

    # --------------------------------------------------------------------------- what a stage finds

    def open(self, loss: Loss) -> list[Event]:
        """Return the gaps to report for a loss that a stage or source has found, and fill them.

        Empty if it was reported already. Where the ids on both sides are numbers, only the missing
        ids that no gap holds yet are reported, and those that follow in the same batch, out of
        order, are not missing.
        """
        subscription, missing = Subscription(loss.symbol, loss.channel), loss.missing
        after_id, before_id = loss.after_id, loss.before_id
        watched = self._watch(subscription)
        parts: Sequence[tuple[int | str | None, int | str | None]]
        if type(after_id) is int and type(before_id) is int:
            parts = watched.parts_not_held(after_id, before_id)
        else:
            gaps = [
                tracked.gap for tracked in watched.fill if after_id in (None, tracked.gap.after_id)
            ]
            if any(gap.since <= loss.since and loss.until <= gap.until for gap in gaps):
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
            part = evolve(loss, after_id=low, before_id=high, missing=missing)
            tracked = TrackedGap(part.gap(self._venue), loss.since, position_id, 0, found)
            out += self._report(watched, tracked)
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
                last, clock_offset = gap.last, self.last_seen.clock_offset
                until = recv + clock_offset.offset(subscription.channel)
                if last is not None and last.ts != last.recv and not clock_offset.has_offset:
                    # A clock was set a moment ago; how long the last event took is not known.
                    until = last.ts + self.clocks.elapsed(gap, last, recv) + CLOCK_STEP
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
        repeats = gap is not None and gap.repeats(event)
        if repeats or gap is None or not gap.is_before(event) or fill.has_brought(event):
            delivered = [] if repeats and not fill.misses(event) else fill.live(event)
            self._counters["repeated_trades"] += not delivered
            return delivered
        ended = self._end(watched, gap, event, batch)
        fill.record(event)
        return [*ended, event]

    def _end(self, watched: Watched, gap: OpenGap, event: Event, batch: list[Event]) -> list[Event]:
        """Return the reports of a gap that *event*, of *batch*, ends.

        If the venue's clock was set back meanwhile, missed events may have times of both clocks. Ids that
        are numbers tell them from what was delivered before; without them a part cannot be filled.
        """
        watched.open = None
        tracked, before_id = gap.reported, id_of(event)
        since, until = self.clocks.times_between(gap, event, batch)
        reports: list[Event] = []
        if since < gap.since and type(before_id) is not int:
            is_older = tracked is None and event.ts < gap.since
            times, ids = (since, until), (id_of(gap.last), before_id)
            if not is_older:
                times, ids = (since, gap.since), (None, None)
            doubtful = self._new_gap(watched, gap, event.recv, times, ids)
            reports = self._report(watched, doubtful, None)
            if is_older:
                return reports
        if tracked is None:
            return reports + self._report_open(watched, gap, until, event.recv, before_id)
        tracked.gap = evolve(tracked.gap, before_id=before_id)
        is_settled = tracked.missing == 0 and tracked.gap.state == "filled"
        is_as_reported = until <= tracked.gap.until and not gap.has_grown
        if is_settled or (tracked.missing is None and is_as_reported):
            return reports
        # The time of the acknowledgement on the venue's clock was an estimate.
        until = max(tracked.gap.until, until)
        return reports + self._report_again(watched, tracked, until, event.recv)

    def overdue(self, now: float) -> list[Event]:
        """Return a Gap for each subscription acknowledged a while ago without an event since.

        *now* is in monotonic seconds. Subscriptions without a recent gap are no longer watched.
        """
        gaps: list[Event] = []
        for key, watched in list(self.watched.items()):
            gap = watched.open
            if gap is not None and gap.confirmed is not None:
                if now - gap.confirmed[2] > _FIRST_EVENT_SECONDS:
                    gaps += self._report_confirmed(watched, gap)
            elif gap is None and now - watched.reported_at > _LATE_SECONDS:
                event = self.last_seen.last_event(key)
                can_fill = fill_kind(key[1]) is not None
                if not can_fill or (event is not None and watched.fill.is_over(event.ts)):
                    del self.watched[key]
        return gaps

    def report_now(self, symbols: Collection[str]) -> list[Event]:
        """Return what `overdue` would in a while, for each of these symbols."""
        gaps: list[Event] = []
        for watched in self._watched_of(symbols):
            if watched.open is not None and watched.open.confirmed is not None:
                gaps += self._report_confirmed(watched, watched.open)
        return gaps

    def is_filling(self, symbols: Collection[str]) -> bool:
        """Return whether gaps of these symbols are being filled."""
        return any(watched.fill.queued for watched in self._watched_of(symbols))

    def _watched_of(self, symbols: Collection[str]) -> list[Watched]:
        return [watched for key, watched in self.watched.items() if key[0] in symbols]

    def close_all(self, now: int, symbols: Collection[str] | None = None) -> list[Event]:
        """Return the final report of each gap at the end of the feed, *now* in ns on our clock.

        With *symbols* only theirs: these are not wanted any more.
        """
        gaps: list[Event] = []
        clock_offset = self.last_seen.clock_offset
        all_watched = self.watched.values() if symbols is None else self._watched_of(symbols)
        for watched in all_watched:
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
        """Remove subscriptions that are no longer wanted."""
        self.last_seen.forget(subscriptions)
        for subscription in subscriptions:
            self.live.discard(subscription)
            self.watched.pop(subscription, None)

    def fills(self) -> list[GapFill]:
        """Return the subscriptions with gaps that wait to be filled."""
        return [watched.fill for watched in self.watched.values() if watched.fill.waiting]

    # -------------------------------------------------------------------------------------- reports

    def _report_confirmed(self, watched: Watched, gap: OpenGap) -> list[Event]:
        assert gap.confirmed is not None
        until, recv, _ = gap.confirmed
        return self._report_open(watched, gap, until, max(recv, self.last_seen.last_recv), None)

    def _report_open(
        self, watched: Watched, gap: OpenGap, until: int, recv: int, before_id: int | str | None
    ) -> list[Event]:
        """Report a gap that was open until *until*; without *before_id* it may grow further."""
        subscription, until = watched.fill.subscription, max(gap.since, until)
        if gap.reported is not None:
            if until <= gap.reported.gap.until and not gap.has_grown:
                return []
            gap.has_grown, until = False, max(until, gap.reported.gap.until)
            return self._report_again(watched, gap.reported, until, recv)
        self.last_seen.clock_offset.mark_complete(subscription.channel, until)
        times, ids = (gap.since, until), (id_of(gap.last), before_id)
        gap.reported = self._new_gap(watched, gap, recv, times, ids)
        return self._report(watched, gap.reported)

    def _new_gap(
        self, watched: Watched, gap: OpenGap, recv: int, times: Sequence[int], ids: Sequence[_Id]
    ) -> TrackedGap:
        """Return what reports *gap*, at *recv*, from the first to the second of *times* in ns and *ids*."""
        (symbol, channel), (since, until) = watched.fill.subscription, times
        report = Gap(
            self._venue, symbol, until, recv, since, until, gap.cause, None, "open", channel,
            *ids,
        )  # fmt: skip
        position_id = ids[0] if type(ids[0]) is int else None
        return TrackedGap(report, since, position_id, before=gap.known)

    def _report(
        self, watched: Watched, tracked: TrackedGap, known: Collection[int | str] | None = ()
    ) -> list[Event]:
        """Return the Gap to emit for a new gap, and let it be filled if the venue can answer.

        *known* are other ids around it that were delivered; None if what is missing cannot be told from it.
        """
        fill = watched.fill
        watched.reported_at = self._clock.monotonic()
        self._counters["gaps"] += 1
        if tracked.gap.missing is None and (missing := tracked.missing) is not None:
            if missing == 0:
                fill.past.append(tracked)
                return [tracked.report(tracked.gap.recv, complete=False)]
            tracked.gap = evolve(tracked.gap, missing=missing)
        if known is None or not self._can_fill(watched, tracked):
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
