"""What was missed between two connections, and when to say so."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import TypeAlias

from attrs import evolve

from tapeloom.events import Event, Gap, Reject, Status
from tapeloom.feeds import Subscription

from .memory import Memory

__all__ = ["OURS", "Holes", "Known", "Missed"]

#: What the venue's clock has not stamped.
OURS = frozenset({Gap, Reject, Status})


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
        self._venue = venue
        self._apart = apart
        self._memory = Memory()
        self._missed = missed
        # Those of which the venue has said that they live again: when, on its clock and in seconds.
        self._word: dict[Subscription, tuple[int, float]] = {}
        self._recv = 0
        self._ts = 0  # up to when all is known, on the venue's clock
        self._lead: int | None = None  # how far the venue's clock runs ahead of ours, at the least

    def seen(self, events: Sequence[Event], recv: int) -> None:
        """Take note of what a read brought, before anybody changes it."""
        self._recv = recv
        for event in events[: -_LOOK - 1 : -1]:
            # What a venue sends without a time bears ours.
            if event.ts != event.recv and type(event) not in OURS:
                self._ts = event.ts
                lead = event.ts - recv
                if self._lead is None or lead > self._lead:
                    self._lead = lead
                return

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

    def cut(self, recv: int, but: Collection[Subscription] = ()) -> None:
        """Open a hole for whatever was live on the connection that ended, *but* for some."""
        self._recv = self._recv or recv
        for one in self.live:
            self._word.pop(one, None)  # it has been lost again
        for one in self.live.difference(but):
            self.open.setdefault(one, (self._known_until(one), "disconnect"))

    def _known_until(self, one: Subscription) -> int:
        """Return up to when all is known of *one*, on the venue's clock."""
        last = self._memory.last(one) if self._apart else None
        return last.ts if last is not None else self._ts or self._now()

    def suspect(self, one: Subscription, now: int, seconds: float) -> None:
        """Open a hole for what has been silent for so long, on a connection that goes on."""
        # Where our clock was set a moment ago, the venue's last word is nearer to its time than ours.
        venue = now + self._lead if self._lead is not None else self._ts or now
        self.open.setdefault(one, (venue - round(seconds * 1_000_000_000), "stall"))

    def close(self, subscriptions: Iterable[Subscription], recv: int, at: float) -> None:
        """Take note that these live again: their holes end here, whether or not something comes."""
        self._recv = recv
        for one in subscriptions:
            if one in self.open:
                self._word.setdefault(one, (self._now(), at))

    def step(self) -> None:
        """Take note that our clock was set: how far the venue's is ahead of it is to be seen anew."""
        self._lead = None

    def forget(self, subscriptions: Collection[Subscription]) -> None:
        """Drop what nobody wants any more."""
        for one in subscriptions:
            self.live.discard(one)
            self.open.pop(one, None)
            self._word.pop(one, None)
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

    def _now(self) -> int:
        """Return the time of the last read on the venue's clock, as far as we can tell."""
        return self._recv + (self._lead or 0)

    def _gap(self, one: Subscription, until: int, after: Event | None = None) -> Gap:
        since, cause = self.open.pop(one)
        self._word.pop(one, None)
        until = max(since, until)
        self._ts = max(self._ts, until)
        gap = Gap(
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
        before = self._memory.last(one)
        known = partial(self._memory.known, one, before.ts if before is not None else since)
        return self._missed(gap, before, after, known)


#: So many of the last events of a batch are looked at for the venue's time.
_LOOK = 16
#: For so many seconds after the venue's word, the first event is waited for: it tells more than the
#: time.
_PATIENCE = 5.0
