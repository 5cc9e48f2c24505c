"""What was missed between two connections, and when to say so."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from tapeloom.events import Event, Gap, Reject, Status
from tapeloom.feeds import Subscription

__all__ = ["Holes"]

#: What the venue's clock has not stamped.
_OURS = frozenset({Gap, Reject, Status})


class Holes:
    """The subscriptions of one session that have been live, and since when nothing is known of them.

    A hole opens when the connection ends, and is told once: before the first event of its
    subscription, or with the venue's word that the subscription lives again, whichever comes first.
    """

    def __init__(self, venue: str) -> None:
        self.live: set[Subscription] = set()
        self.open: dict[Subscription, tuple[int, str]] = {}  #: since when nothing is known, and why
        self._venue = venue
        self._told: list[Subscription] = []  # the venue's word has come
        self._recv = 0
        self._ts = 0  # up to when all is known, on the venue's clock
        self._lead: int | None = None  # how far the venue's clock runs ahead of ours, at the least

    def seen(self, events: Sequence[Event], recv: int) -> None:
        """Take note of what a read brought, before anybody changes it."""
        self._recv = recv
        for event in reversed(events):
            if type(event) not in _OURS:
                self._ts = event.ts
                lead = event.ts - recv
                if self._lead is None or lead > self._lead:
                    self._lead = lead
                return

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
        self._told.clear()
        for one in self.live.difference(but):
            self.open.setdefault(one, (self._ts or self._now(), "disconnect"))

    def suspect(self, one: Subscription, seconds: float) -> None:
        """Open a hole for what has been silent for so long, on a connection that goes on."""
        self.open.setdefault(one, (self._now() - round(seconds * 1_000_000_000), "stall"))

    def close(self, subscriptions: Iterable[Subscription]) -> None:
        """Tell the holes of these with what is announced next."""
        self._told += [one for one in subscriptions if one in self.open]

    def forget(self, subscriptions: Iterable[Subscription]) -> None:
        """Drop what nobody wants any more."""
        for one in subscriptions:
            self.live.discard(one)
            self.open.pop(one, None)

    def announce(self, events: Sequence[Event]) -> list[Event]:
        """Return *events* with a Gap before the first one after each hole."""
        out: list[Event] = []
        for event in events:
            one = Subscription(event.symbol, event.channel)
            if one in self.open and type(event) not in _OURS:
                out.append(self._gap(one, event.ts))
            out.append(event)
        # Those of which nothing came stand first: what is told of them was so before this read.
        quiet = [self._gap(one, self._now()) for one in self._told if one in self.open]
        self._told.clear()
        return [*quiet, *out]

    def _now(self) -> int:
        """Return the time of the last read on the venue's clock, as far as we can tell."""
        return self._recv + (self._lead or 0)

    def _gap(self, one: Subscription, until: int) -> Gap:
        since, cause = self.open.pop(one)
        until = max(since, until)
        self._ts = max(self._ts, until)
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
