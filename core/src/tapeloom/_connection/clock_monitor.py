"""The venue's clock, as its events show it: whether it runs, and whether it keeps its distance from ours."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from attrs import define

from tapeloom.events import Book, Event, Quote, Trade


class ClockAlert(NamedTuple):
    """What is to be told: a state, what was seen, and of which subscription (empty: of the venue)."""

    state: str
    detail: str
    symbol: str = ""
    channel: str = ""


@define
class _Line:
    """The time of one subscription: its newest, when that came, and how many words have come since."""

    ts: int
    recv: int
    words: int = 0
    frozen: bool = False


class ClockMonitor:
    """Looks once a second at what came last, and at nothing else.

    A feed that repeats what it knows, with a time that stands still, looks alive to any other watch.
    A clock that was set, the venue's or ours, moves all times that are compared with each other.
    """

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str], _Line] = {}
        self._lead: int | None = None  # of the venue's clock before ours, as it is usual
        self._leads: deque[int] = deque(maxlen=_SECONDS)

    def look(self, sample: Iterable[Event]) -> list[ClockAlert]:
        """Return what is to be told after this second, of which these events are a *sample*."""
        lead: int | None = None
        found: list[ClockAlert] = []
        for event in sample:
            if type(event) not in _TIMED or event.ts == event.recv:
                continue  # what a venue sends without a time bears ours
            if getattr(event, "origin", "live") != "live":
                continue
            ahead = event.ts - event.recv
            lead = ahead if lead is None or ahead > lead else lead
            found += self._runs(event)
        return found if lead is None else found + self._distance(lead)

    def _runs(self, event: Event) -> list[ClockAlert]:
        key = event.symbol, event.channel
        line = self._lines.get(key)
        if line is None:
            self._lines[key] = _Line(event.ts, event.recv)
            return []
        if event.ts > line.ts:
            line.ts, line.recv, line.words = event.ts, event.recv, 0
            if line.frozen:
                line.frozen = False
                return [ClockAlert("venue_clock_running", "the venue's time goes on", *key)]
            return []
        line.words += 1
        stands = event.recv - line.recv
        if line.frozen or line.words < _WORDS or stands < _STANDS:
            return []
        line.frozen = True
        detail = (
            f"for {stands / 1e9:.0f} s, {line.words} events came and the venue's time stood still"
        )
        return [ClockAlert("venue_clock_stopped", detail, *key)]

    def _distance(self, lead: int) -> list[ClockAlert]:
        """Compare the least delay of this second with the usual one."""
        if self._lead is None:
            self._lead = lead
        self._leads.append(lead)
        if all(abs(one - self._lead) <= _STEP for one in self._leads):
            # It drifts along with what the network does, and with the clocks.
            self._lead += (lead - self._lead) // _SECONDS
            return []
        # One late second is a slow network; several that agree with each other are a clock.
        if len(self._leads) < _SECONDS or max(self._leads) - min(self._leads) > _STEP:
            return []
        step, self._lead = lead - self._lead, lead
        detail = (
            f"the venue's clock against ours has moved by {step / 1e9:+.3f} s;"
            " one of them was set, or everything comes later than before"
        )
        return [ClockAlert("venue_clock_jumped", detail)]

    def step(self, now: int) -> None:
        """Take note that our clock was set, and is at *now*: what stands still is measured anew."""
        for line in self._lines.values():
            line.recv, line.words = now, 0

    def forget(self, some: Iterable[tuple[str, str]]) -> None:
        """Forget subscriptions that are no more."""
        for one in some:
            self._lines.pop(one, None)


#: Events with a time at which something happened; a bar's is its start.
_TIMED = frozenset({Trade, Quote, Book})
#: So many events without progress, over so many ns, are a clock that stands still.
_WORDS, _STANDS = 20, 10_000_000_000
#: A step of more than so many ns, which so many seconds in a row agree on, is a clock that was set.
_STEP, _SECONDS = 1_000_000_000, 5
