"""Open gaps of each subscription: when they begin, when they end, and when a `Gap` is reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

from attrs import evolve

from tapeloom.events import OURS, Event, Gap, GapCause
from tapeloom.plugin import Subscription

from .last_seen import LastSeen

#: Seconds after the venue's acknowledgement in which the first event is awaited: its time and id
#: describe the gap more precisely than the time of the acknowledgement.
_FIRST_EVENT_SECONDS = 5.0
_NONE: Mapping[Subscription, int] = MappingProxyType({})


#: Returns the ids of the trades received around a gap.
KnownIds: TypeAlias = Callable[[], Collection[int | str]]
#: Called with a gap that ends, the last event before it, the first event after it, and the ids of
#: the trades around it; returns the Gap to report.
OnGap: TypeAlias = Callable[[Gap, Event | None, Event | None, KnownIds], Gap]


def _no_fill(gap: Gap, before: Event | None, after: Event | None, known: KnownIds) -> Gap:
    return evolve(gap, state="unrecoverable")


class GapTracker:
    """Tracks open gaps per subscription of one supervisor.

    A gap opens when the connection is lost or a subscription stalls. It is reported once: before
    the first event of its subscription, or, if none arrives, a few seconds after the venue has
    acknowledged the subscription again. *last_seen* holds what was received before. With
    *separate*, the subscriptions do not share a connection: an event of one of them does not
    show that the others were complete until then.
    """

    def __init__(
        self, venue: str, last_seen: LastSeen, on_gap: OnGap = _no_fill, *, separate: bool = False
    ) -> None:
        self.live: set[Subscription] = set()
        #: Per subscription with an open gap: its start in ns on the venue's clock, and its cause.
        self.open_gaps: dict[Subscription, tuple[int, GapCause]] = {}
        # Gaps that were reported before any event came after them: (since, until).
        self._reported: dict[Subscription, tuple[int, int]] = {}
        self._venue = venue
        self._separate = separate
        self._last_seen = last_seen
        self._on_gap = on_gap
        # Subscriptions with an open gap that the venue has acknowledged again: when, in ns on the
        # venue's clock, in ns on ours, and in monotonic seconds.
        self._confirmed: dict[Subscription, tuple[int, int, float]] = {}

    def mark_live(
        self,
        batch: Iterable[Event],
        pending: Iterable[Subscription],
        wanted: Iterable[Subscription],
    ) -> None:
        """Mark *pending* subscriptions live that have an event before their acknowledgement."""
        not_live = set(pending) - self.live
        if not_live:
            active = {Subscription(event.symbol, event.channel) for event in batch}
            self.live.update((not_live & active).intersection(wanted))

    def open_all(
        self,
        recv: int,
        but: Collection[Subscription] = (),
        maybe_stalled: Mapping[Subscription, int] = _NONE,
    ) -> None:
        """Open a gap for each live subscription *but* some, because the connection was lost.

        *recv* is the time of the last read. The gap of a *maybe_stalled* one begins no later than
        the time given for it. Both are ns on our clock.
        """
        clock_offset = self._last_seen.clock_offset
        for subscription in self.live:
            self._confirmed.pop(subscription, None)  # lost again before its gap was reported
        trades = self._last_seen.last_trades()
        for subscription in self.live.difference(but):
            last = trades.get((subscription.symbol, subscription.channel))
            # It may have stalled after its last trade, before the connection was lost.
            since = self._complete_until(subscription, recv)
            if last is not None:
                since = max(last.ts, self._reported.get(subscription, (0, 0))[1])
            if subscription in maybe_stalled:
                offset = clock_offset.offset(subscription.channel)
                since = min(since, maybe_stalled[subscription] + offset)
            self.open_gaps.setdefault(subscription, (since, "disconnect"))

    def _complete_until(self, subscription: Subscription, recv: int) -> int:
        """Return until when it is complete, on the venue's clock; *recv* is the last read."""
        last = self._last_seen.last_event(subscription) if self._separate else None
        if last is not None:
            return last.ts
        offset, channel = self._last_seen.clock_offset, subscription.channel
        return offset.last_ts(channel) or offset.latest_ts or recv + offset.offset(channel)

    def open_stalled(self, subscription: Subscription, now: int, silent_seconds: float) -> None:
        """Open a gap for a subscription that has stalled on a live connection.

        It is resubscribed: an earlier acknowledgement no longer counts.
        """
        self._confirmed.pop(subscription, None)
        # If our clock was set a moment ago, the venue's last event is closer to the venue's time.
        clock_offset, channel = self._last_seen.clock_offset, subscription.channel
        venue_now = now + clock_offset.offset(channel)
        if not clock_offset.has_offset:
            venue_now = clock_offset.last_ts(channel) or now
        since = venue_now - round(silent_seconds * 1_000_000_000)
        self.open_gaps.setdefault(subscription, (since, "stall"))

    def confirmed(self, subscriptions: Iterable[Subscription], recv: int, at: float) -> None:
        """End the gaps of these subscriptions: the venue replied at *recv* in ns, *at* in seconds.

        Such a gap is reported with the first event, or by `overdue`.
        """
        clock_offset = self._last_seen.clock_offset
        for subscription in subscriptions:
            if subscription in self.open_gaps:
                until = recv + clock_offset.offset(subscription.channel)
                self._confirmed.setdefault(subscription, (until, recv, at))

    def forget(self, subscriptions: Collection[Subscription]) -> None:
        """Remove subscriptions that are no longer wanted, without reporting their gaps."""
        for subscription in subscriptions:
            self.live.discard(subscription)
            self.open_gaps.pop(subscription, None)
            self._confirmed.pop(subscription, None)
            self._reported.pop(subscription, None)

    def process(self, batch: list[Event], counters: Counter[str]) -> list[Event]:
        """Return *batch* with the gaps that it ends, count them, and add it to the last seen."""
        events = batch
        if self.open_gaps:
            before = len(self.open_gaps)
            events = self.insert_gaps(batch)
            counters["gaps"] += before - len(self.open_gaps)
        self._last_seen.add(batch)
        return events

    def insert_gaps(self, events: Sequence[Event]) -> list[Event]:
        """Return *events* with a Gap before the first event after each open gap.

        To be called before the events are added to the last seen ones.
        """
        out: list[Event] = []
        for event in events:
            subscription = Subscription(event.symbol, event.channel)
            if subscription in self.open_gaps and type(event) not in OURS:
                out.append(self._report(subscription, event.ts, event.recv, event))
            out.append(event)
        return out

    def overdue(self, now: float) -> list[Event]:
        """Return a Gap for each subscription acknowledged a while ago without an event since.

        *now* is in monotonic seconds.
        """
        gaps: list[Event] = []
        last = self._last_seen.last_recv
        for subscription, (until, recv, at) in list(self._confirmed.items()):
            if subscription in self.open_gaps and now - at > _FIRST_EVENT_SECONDS:
                gaps.append(self._report(subscription, until, max(recv, last)))
        return gaps

    def close_all(self, now: int) -> list[Event]:
        """Return a Gap for each open gap at the end of the feed, *now* in ns on our clock."""
        gaps: list[Event] = []
        clock_offset = self._last_seen.clock_offset
        for subscription in list(self.open_gaps):
            until = now + clock_offset.offset(subscription.channel)
            gaps.append(evolve(self._close(subscription, until, now), state="unrecoverable"))
        return gaps

    def _report(
        self, subscription: Subscription, until: int, recv: int, after: Event | None = None
    ) -> Gap:
        """Close a gap and return what `on_gap` makes of it; *after* is the event that ends it."""
        before = self._last_seen.last_event(subscription)
        since, cause = self.open_gaps[subscription]
        reported = self._reported.pop(subscription, (since, 0))
        if after is None:
            self._reported[subscription] = (min(since, reported[0]), max(since, until))
        elif _has_numeric_ids(before, after):
            # The ids count what is missing since the last event, so the gap that was reported
            # without an event after it is included.
            self.open_gaps[subscription] = (min(since, reported[0]), cause)
        gap = self._close(subscription, until, recv)
        start = before.ts if before is not None else gap.since
        known_ids = self._last_seen.watch_trade_ids(subscription, start)
        return self._on_gap(gap, before, after, known_ids)

    def _close(self, subscription: Subscription, until: int, recv: int) -> Gap:
        """Close a gap at *until*; return it before it is known whether it can be filled."""
        since, cause = self.open_gaps.pop(subscription)
        self._confirmed.pop(subscription, None)
        channel, until = subscription.channel, max(since, until)
        self._last_seen.clock_offset.mark_complete(channel, until)
        return Gap(
            self._venue, subscription.symbol, until, recv, since, until, cause, channel=channel
        )


def _has_numeric_ids(before: Event | None, after: Event) -> bool:
    """Return whether the ids of both events are numbers, so that they count what is between."""
    return all(isinstance(getattr(event, "id", None), int) for event in (before, after))
