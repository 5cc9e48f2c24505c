"""Checks the venue's clock by the times of its events: whether it stopped or jumped."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from attrs import define

from tapeloom.events import Book, Event, Quote, Trade

#: Types whose `ts` is the time of something that happened; that of a bar is its start.
_TIMED = frozenset({Trade, Quote, Book})
#: The clock has stopped after this number of events with an unchanged time, over this many ns.
_MIN_UNCHANGED, _STOPPED_NS = 20, 10_000_000_000
#: The clock has jumped if the offset changes by more than so many ns, for so many seconds in a row.
_JUMP_NS, _SECONDS = 1_000_000_000, 5


class ClockAlert(NamedTuple):
    """A Status to report: its state and detail, and the subscription (empty: the whole venue)."""

    state: str
    detail: str
    symbol: str = ""
    channel: str = ""
    offset: int | None = None  #: of a clock that has jumped: how far it is ahead of ours now, in ns


@define
class _LastTime:
    """The newest venue time of one subscription, and how many events came without a newer one."""

    ts: int
    recv: int
    unchanged: int = 0
    stopped: bool = False


class ClockMonitor:
    """Checks a sample of the last events once a second.

    A feed that repeats old data with a constant time looks alive to every other check. A clock that
    was set, the venue's or ours, shifts all times that are compared with each other.
    """

    def __init__(self) -> None:
        self._last_times: dict[tuple[str, str], _LastTime] = {}
        self._usual_offset: int | None = None  # venue's clock minus ours, in ns
        self._offsets: deque[int] = deque(maxlen=_SECONDS)

    def check(self, sample: Iterable[Event]) -> list[ClockAlert]:
        """Return the alerts of this second, given a *sample* of its events."""
        largest: int | None = None
        alerts: list[ClockAlert] = []
        for event in sample:
            if type(event) not in _TIMED or event.ts == event.recv:
                continue  # an event without a venue time has ours
            if getattr(event, "origin", "live") != "live":
                continue
            offset = event.ts - event.recv
            largest = offset if largest is None or offset > largest else largest
            alerts += self._check_progress(event)
        return alerts if largest is None else alerts + self._check_offset(largest)

    def _check_progress(self, event: Event) -> list[ClockAlert]:
        key = event.symbol, event.channel
        last = self._last_times.get(key)
        if last is None:
            self._last_times[key] = _LastTime(event.ts, event.recv)
            return []
        if event.ts > last.ts:
            last.ts, last.recv, last.unchanged = event.ts, event.recv, 0
            if last.stopped:
                last.stopped = False
                return [ClockAlert("venue_clock_running", "the venue's time advances again", *key)]
            return []
        last.unchanged += 1
        constant_ns = event.recv - last.recv
        if last.stopped or last.unchanged < _MIN_UNCHANGED or constant_ns < _STOPPED_NS:
            return []
        last.stopped = True
        detail = f"no newer venue time in {last.unchanged} events over {constant_ns / 1e9:.0f} s"
        return [ClockAlert("venue_clock_stopped", detail, *key)]

    def _check_offset(self, offset: int) -> list[ClockAlert]:
        """Compare the largest offset of this second (the least delay) with the usual one."""
        if self._usual_offset is None:
            self._usual_offset = offset
        self._offsets.append(offset)
        if all(abs(recent - self._usual_offset) <= _JUMP_NS for recent in self._offsets):
            # The usual offset follows slow changes of the network delay and of the clocks.
            self._usual_offset += (offset - self._usual_offset) // _SECONDS
            return []
        # One late second is a slow network; several seconds with one new offset are a set clock.
        if len(self._offsets) < _SECONDS or max(self._offsets) - min(self._offsets) > _JUMP_NS:
            return []
        change, self._usual_offset = offset - self._usual_offset, offset
        detail = (
            f"the venue's clock has moved against ours by {change / 1e9:+.3f} s;"
            " one of them was set, or all data arrives later than before"
        )
        return [ClockAlert("venue_clock_jumped", detail, offset=offset)]

    def own_clock_set(self, now: int) -> None:
        """Restart the check for stopped clocks: our clock was set to *now* in ns."""
        for last in self._last_times.values():
            last.recv, last.unchanged = now, 0

    def forget(self, keys: Iterable[tuple[str, str]]) -> None:
        """Remove subscriptions that have ended, given as (symbol, channel)."""
        for key in keys:
            self._last_times.pop(key, None)
