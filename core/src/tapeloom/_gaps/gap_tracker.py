"""What was missed between two connections, and when to say so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

from attrs import evolve

from tapeloom.events import OURS, Event, Gap, GapCause
from tapeloom.plugin import Subscription

from .last_seen import LastSeen

_NONE: Mapping[Subscription, int] = MappingProxyType({})


Known: TypeAlias = Callable[[], Collection[int | str]]
#: Is told of a hole, the last event before it, the first one after it, and the ids of trades around
#: it; returns the Gap to announce.
Missed: TypeAlias = Callable[[Gap, Event | None, Event | None, Known], Gap]


def _unrecoverable(gap: Gap, before: Event | None, after: Event | None, known: Known) -> Gap:
    return evolve(gap, state="unrecoverable")


class GapTracker:
    """The subscriptions of one session that have been live, and since when nothing is known of them.

    A hole opens when the connection ends, and is told once: before the first event of its
    subscription, or, where nothing comes, some seconds after the venue's word that it lives again.
    What is known of them is in *memory*. With *apart*, the subscriptions do not share a connection:
    that one has spoken says nothing of what is known of another.
    """

    def __init__(
        self, venue: str, memory: LastSeen, missed: Missed = _unrecoverable, *, apart: bool = False
    ) -> None:
        self.live: set[Subscription] = set()
        self.open: dict[
            Subscription, tuple[int, GapCause]
        ] = {}  #: since when nothing is known, and why
        # Holes that were told before anything came after them: since when, until when.
        self._vague: dict[Subscription, tuple[int, int]] = {}
        self._venue = venue
        self._apart = apart
        self._memory = memory
        self._missed = missed
        # Those of which the venue has said that they live again: when, on its clock, on ours, and in
        # seconds.
        self._word: dict[Subscription, tuple[int, int, float]] = {}

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
        times = self._memory.times
        for one in self.live:
            self._word.pop(one, None)  # it has been lost again
        trades = self._memory.trades()
        for one in self.live.difference(but):
            last = trades.get((one.symbol, one.channel))
            # After its last trade it may have fallen mute before the connection ended.
            since = self._known_until(one, recv)
            if last is not None:
                since = max(last.ts, self._vague.get(one, (0, 0))[1])
            if one in doubtful:
                since = min(since, doubtful[one] + times.offset(one.channel))
            self.open.setdefault(one, (since, "disconnect"))

    def _known_until(self, one: Subscription, recv: int) -> int:
        """Return up to when all is known of *one*, on the venue's clock; *recv*: the last read."""
        last = self._memory.last(one) if self._apart else None
        if last is not None:
            return last.ts
        times = self._memory.times
        return times.last_ts(one.channel) or times.latest_ts or recv + times.offset(one.channel)

    def suspect(self, one: Subscription, now: int, seconds: float) -> None:
        """Open a hole for what has been silent for so long, on a connection that goes on.

        It will be subscribed to anew: what the venue has said of it so far no longer holds.
        """
        self._word.pop(one, None)
        # Where our clock was set a moment ago, the venue's last word is nearer to its time than ours.
        times = self._memory.times
        venue = now + times.offset(one.channel)
        if not times.is_known:
            venue = times.last_ts(one.channel) or now
        self.open.setdefault(one, (venue - round(seconds * 1_000_000_000), "stall"))

    def close(self, subscriptions: Iterable[Subscription], recv: int, at: float) -> None:
        """Take note that these live again: their holes end here, whether or not something comes."""
        times = self._memory.times
        for one in subscriptions:
            if one in self.open:
                self._word.setdefault(one, (recv + times.offset(one.channel), recv, at))

    def forget(self, subscriptions: Collection[Subscription]) -> None:
        """Drop what nobody wants any more."""
        for one in subscriptions:
            self.live.discard(one)
            self.open.pop(one, None)
            self._word.pop(one, None)
            self._vague.pop(one, None)

    def take(self, came: list[Event], counters: Counter[str]) -> list[Event]:
        """Take in what *came*; return it with the holes announced, and counted, that end with it."""
        events = came
        if self.open:
            before = len(self.open)
            events = self.announce(came)
            counters["gaps"] += before - len(self.open)
        self._memory.note(came)
        return events

    def announce(self, events: Sequence[Event]) -> list[Event]:
        """Return *events*, which are not in memory yet, with a Gap before the first after each hole."""
        out: list[Event] = []
        for event in events:
            one = Subscription(event.symbol, event.channel)
            if one in self.open and type(event) not in OURS:
                out.append(self._gap(one, event.ts, event.recv, event))
            out.append(event)
        return out

    def quiet(self, now: float) -> list[Event]:
        """Return a Gap for each hole that has ended a while ago, and after which nothing came yet."""
        late = [
            (one, until, recv)
            for one, (until, recv, said) in self._word.items()
            if one in self.open and now - said > _PATIENCE
        ]
        last = self._memory.recv
        return [self._gap(one, until, max(recv, last)) for one, until, recv in late]

    def end(self, now: int) -> list[Event]:
        """Return a Gap for each hole that is open as all ends, *now* on our clock."""
        times = self._memory.times
        gaps = [self._hole(one, now + times.offset(one.channel), now) for one in list(self.open)]
        return [evolve(gap, state="unrecoverable") for gap in gaps]

    def _gap(self, one: Subscription, until: int, recv: int, after: Event | None = None) -> Gap:
        before = self._memory.last(one)
        since, cause = self.open[one]
        vague = self._vague.pop(one, (since, 0))
        if after is None:
            self._vague[one] = (min(since, vague[0]), max(since, until))
        elif _numbered(before, after):
            # The numbers count what is missing since the last event, not since that word.
            self.open[one] = (min(since, vague[0]), cause)
        gap = self._hole(one, until, recv)
        known = self._memory.ask(one, before.ts if before is not None else gap.since)
        return self._missed(gap, before, after, known)

    def _hole(self, one: Subscription, until: int, recv: int) -> Gap:
        """Return what is to be told of a hole that ends then, before it is known what can be had."""
        since, cause = self.open.pop(one)
        self._word.pop(one, None)
        until = max(since, until)
        self._memory.times.mark_complete(one.channel, until)
        return Gap(
            self._venue, one.symbol, until, recv, since, until, cause, None, "open", one.channel
        )


def _numbered(before: Event | None, after: Event) -> bool:
    """Whether numbers tell how much is missing between the two."""
    return isinstance(getattr(before, "id", None), int) and isinstance(
        getattr(after, "id", None), int
    )


#: For so many seconds after the venue's word, the first event is waited for: it tells more than the
#: time.
_PATIENCE = 5.0
