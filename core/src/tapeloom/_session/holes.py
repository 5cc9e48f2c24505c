"""What was missed between two connections, and when to say so."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

from attrs import evolve

from tapeloom.events import Event, Gap, Reject, Status
from tapeloom.feeds import Subscription

from .memory import Memory

__all__ = ["OURS", "Holes", "Known", "Missed"]

#: What the venue's clock has not stamped.
OURS = frozenset({Gap, Reject, Status})
_NONE: Mapping[Subscription, int] = MappingProxyType({})


Known: TypeAlias = Callable[[], Collection[int | str]]
#: Is told of a hole, the last event before it, the first one after it, and the ids of trades around
#: it; returns the Gap to announce.
Missed: TypeAlias = Callable[[Gap, Event | None, Event | None, Known], Gap]


def _unrecoverable(gap: Gap, before: Event | None, after: Event | None, known: Known) -> Gap:
    return evolve(gap, verdict="unrecoverable")


class Holes:
    """The subscriptions of one session that have been live, and since when nothing is known of them.

    A hole opens when the connection ends, and is told once: before the first event of its
    subscription, or, where nothing comes, some seconds after the venue's word that it lives again.
    With *apart*, the subscriptions do not share a connection: that one has spoken says nothing of
    what is known of another.
    """

    def __init__(self, venue: str, missed: Missed = _unrecoverable, *, apart: bool = False) -> None:
        self.live: set[Subscription] = set()
        self.open: dict[Subscription, tuple[int, str]] = {}  #: since when nothing is known, and why
        # Holes that were told before anything came after them: since when, until when.
        self._vague: dict[Subscription, tuple[int, int]] = {}
        self._venue = venue
        self._apart = apart
        self._memory = Memory()
        self._missed = missed
        # Those of which the venue has said that they live again: when, on its clock and in seconds.
        self._word: dict[Subscription, tuple[int, float]] = {}
        self._recv = 0
        # By channel, because a venue may take the times of each from another clock: up to when all
        # is known, and how far that clock runs ahead of ours, at the least.
        self._until: dict[str, int] = {}
        self._leads: dict[str, Lead] = {}

    def seen(self, events: Sequence[Event], recv: int) -> None:
        """Take note of what a read brought, before anybody changes it."""
        self._recv = recv
        last: Event | None = None
        for event in events[-_LOOK:]:
            # What a venue sends without a time bears ours.
            if event.ts != event.recv and type(event) not in OURS:
                self._until[event.channel] = event.ts
                last = event
        if last is not None:
            lead = self._leads.get(last.channel)
            if lead is None:
                self._leads[last.channel] = Lead(last.ts - recv, recv)
            else:
                lead.note(last.ts - recv, recv)

    def note(self, events: list[Event]) -> None:
        """Remember a batch, as the parser gave it, once its holes have been told."""
        self._memory.note(events)

    def prove(
        self,
        events: Iterable[Event],
        asked: Iterable[Subscription],
        wanted: Collection[Subscription],
    ) -> None:
        """Note which of those *asked* for are live although the venue has not said so yet."""
        silent = set(asked) - self.live
        if silent:
            came = {Subscription(event.symbol, event.channel) for event in events}
            self.live.update(one for one in silent & came if one in wanted)

    def cut(
        self,
        recv: int,
        but: Collection[Subscription] = (),
        doubtful: Mapping[Subscription, int] = _NONE,
    ) -> None:
        """Open a hole for whatever was live on the connection that ended, *but* for some.

        Of the *doubtful* nothing is known since a time of ours.
        """
        self._recv = self._recv or recv
        for one in self.live:
            self._word.pop(one, None)  # it has been lost again
        trades = self._memory.trades()
        for one in self.live.difference(but):
            last = trades.get((one.symbol, one.channel))
            # After its last trade it may have fallen mute before the connection ended.
            since = self._known_until(one)
            if last is not None:
                since = max(last.ts, self._vague.get(one, (0, 0))[1])
            if one in doubtful:
                since = min(since, doubtful[one] + self._lead(one))
            self.open.setdefault(one, (since, "disconnect"))

    def _known_until(self, one: Subscription) -> int:
        """Return up to when all is known of *one*, on the venue's clock."""
        last = self._memory.last(one) if self._apart else None
        if last is not None:
            return last.ts
        until = self._until.get(one.channel) or max(self._until.values(), default=0)
        return until or self._now(one)

    def suspect(self, one: Subscription, now: int, seconds: float) -> None:
        """Open a hole for what has been silent for so long, on a connection that goes on.

        It will be subscribed to anew: what the venue has said of it so far no longer holds.
        """
        self._word.pop(one, None)
        # Where our clock was set a moment ago, the venue's last word is nearer to its time than ours.
        last = self._until.get(one.channel, now)
        venue = now + self._lead(one) if self._leads else last
        self.open.setdefault(one, (venue - round(seconds * 1_000_000_000), "stall"))

    def close(self, subscriptions: Iterable[Subscription], recv: int, at: float) -> None:
        """Take note that these live again: their holes end here, whether or not something comes."""
        self._recv = recv
        for one in subscriptions:
            if one in self.open:
                self._word.setdefault(one, (self._now(one), at))

    def step(self) -> None:
        """Take note that our clock was set: how far the venue's is ahead of it is to be seen anew."""
        self._leads.clear()

    def forget(self, subscriptions: Collection[Subscription]) -> None:
        """Drop what nobody wants any more."""
        for one in subscriptions:
            self.live.discard(one)
            self.open.pop(one, None)
            self._word.pop(one, None)
            self._vague.pop(one, None)
        self._memory.forget(subscriptions)

    def announce(self, events: Sequence[Event]) -> list[Event]:
        """Return *events* with a Gap before the first one after each hole."""
        out: list[Event] = []
        for event in events:
            one = Subscription(event.symbol, event.channel)
            if one in self.open and type(event) not in OURS:
                out.append(self._gap(one, event.ts, event))
            out.append(event)
        return out

    def quiet(self, now: float) -> list[Event]:
        """Return a Gap for each hole that has ended a while ago, and after which nothing came yet."""
        late = [
            (one, until)
            for one, (until, said) in self._word.items()
            if one in self.open and now - said > _PATIENCE
        ]
        return [self._gap(one, until) for one, until in late]

    def end(self, now: int) -> list[Event]:
        """Return a Gap for each hole that is open as all ends, *now* on our clock."""
        self._recv = now
        gaps = [self._hole(one, self._now(one)) for one in list(self.open)]
        return [evolve(gap, verdict="unrecoverable") for gap in gaps]

    def _lead(self, one: Subscription) -> int:
        lead = self._leads.get(one.channel)
        if lead is not None:
            return lead.most
        return max((each.most for each in self._leads.values()), default=0)

    def _now(self, one: Subscription) -> int:
        """Return the time of the last read on the venue's clock, as far as we can tell."""
        return self._recv + self._lead(one)

    def _gap(self, one: Subscription, until: int, after: Event | None = None) -> Gap:
        before = self._memory.last(one)
        since, cause = self.open[one]
        vague = self._vague.pop(one, (since, 0))
        if after is None:
            self._vague[one] = (min(since, vague[0]), max(since, until))
        elif _numbered(before, after):
            # The numbers count what is missing since the last event, not since that word.
            self.open[one] = (min(since, vague[0]), cause)
        gap = self._hole(one, until)
        known = partial(self._memory.known, one, before.ts if before is not None else gap.since)
        return self._missed(gap, before, after, known)

    def _hole(self, one: Subscription, until: int) -> Gap:
        """Return what is to be told of a hole that ends then, before it is known what can be had."""
        since, cause = self.open.pop(one)
        self._word.pop(one, None)
        until = max(since, until)
        self._until[one.channel] = max(self._until.get(one.channel, 0), until)
        return Gap(
            self._venue,
            one.symbol,
            until,
            self._recv,
            since,
            until,
            cause,
            None,
            "open",
            one.channel,
        )


def _numbered(before: Event | None, after: Event) -> bool:
    """Whether numbers tell how much is missing between the two."""
    return isinstance(getattr(before, "id", None), int) and isinstance(
        getattr(after, "id", None), int
    )


class Lead:
    """How far a clock of the venue runs ahead of ours: the most of the last minute or two.

    What comes late tells nothing, so the most counts; and a clock can be set, so not for ever.
    """

    __slots__ = ("_began", "_most", "_older")

    def __init__(self, lead: int, recv: int) -> None:
        self._began = recv
        self._most = self._older = lead

    def note(self, lead: int, recv: int) -> None:
        """Take note of one that was seen."""
        if recv - self._began > _WHILE:
            self._began, self._older, self._most = recv, self._most, lead
        elif lead > self._most:
            self._most = lead

    @property
    def most(self) -> int:
        """The most that was seen."""
        return max(self._most, self._older)


#: So many of the last events of a batch are looked at for the venue's time.
_LOOK = 16
#: For so many ns the distance of a clock is remembered, once as the newest and once as the older.
_WHILE = 60_000_000_000
#: For so many seconds after the venue's word, the first event is waited for: it tells more than the
#: time.
_PATIENCE = 5.0
