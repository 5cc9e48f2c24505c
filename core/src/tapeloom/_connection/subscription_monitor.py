"""What one session knows of its subscriptions: which live, which are silent, and what was missed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from tapeloom._gaps.gap_tracker import GapTracker, Missed
from tapeloom._gaps.last_seen import LastSeen
from tapeloom.events import Event
from tapeloom.plugin import ClockStepDetector, Feed, Subscription

from .clock_monitor import ClockAlert, ClockMonitor
from .stall_detector import StallDetector, Stalled
from .subscriptions import Subscriptions


class Seen(NamedTuple):
    """What is to be done after a look."""

    gaps: list[Event]  #: to be told: holes after which nothing came yet
    findings: Sequence[ClockAlert]  #: to be told: of the venue's clock
    mute: Sequence[Stalled]  #: to be subscribed to anew
    end: str  #: why the connection is to be given up, if it is


class SubscriptionMonitor:
    """Takes in what comes and what the venue says, and is looked at once a second."""

    def __init__(self, feed: Feed, missed: Missed | None = None) -> None:
        self.memory = LastSeen()
        self.holes = GapTracker(feed.venue, self.memory, *((missed,) if missed else ()))
        self._clock = feed.clock
        self._counters = feed.counters
        self._silence = StallDetector()
        self._venue_clock = ClockMonitor()
        self._steps = ClockStepDetector(feed.clock)

    # ------------------------------------------------------------------------------- what comes

    def take(self, came: list[Event], subscriptions: Subscriptions) -> list[Event]:
        """Take in what *came*; return it with the holes announced that end with it."""
        if not came:
            return came
        if subscriptions.waiting:
            self.holes.prove(came, subscriptions.asked(), subscriptions.wanted)
        return self.holes.take(came, self._counters)

    def live(self, some: Sequence[Subscription], said: int | None) -> None:
        """Take note that these are live; *said*: when the venue's own word of it came."""
        now = self._clock.monotonic()
        self.holes.live.update(some)
        self._silence.begin(some, now)
        if said is not None:
            self.holes.close(some, said, now)

    def refused(self, some: Sequence[Subscription], said: int) -> None:
        """Take note that the venue does not give us these, by its word of then."""
        self.holes.close(some, said, self._clock.monotonic())
        self.holes.live.difference_update(some)
        self._silence.forget(some)

    def lost(self, last: int, heard: float, but: Collection[Subscription] = ()) -> None:
        """Open holes as a connection ends, *but* for what lives on another one.

        They begin with its *last* read, or before, where something had stopped by then: *heard* is
        the second in which anything was heard.
        """
        now, monotonic = self._clock.time_ns(), self._clock.monotonic()
        # Looked at once a second, so each may have spoken a second before.
        doubtful = {
            one: now - round((monotonic - known + 1.0) * 1e9)
            for one, known in (self._silence.doubtful(heard) if last else {}).items()
        }
        self.holes.cut(last, but, doubtful)
        if not but:
            self._silence.rest()

    def excuse(self) -> None:
        """Hold no silence against the venue: it was we who did not listen."""
        self._silence.excuse(self._clock.monotonic())

    def forget(self, gone: Collection[Subscription]) -> None:
        """Watch these no more."""
        self.holes.forget(gone)
        self.memory.forget(gone)
        self._silence.forget(gone)
        self._venue_clock.forget((one.symbol, one.channel) for one in gone)

    def activity(self, one: Subscription) -> float:
        """Return how often *one* speaks in a second, as far as is known."""
        return self._silence.activity(one)

    # ------------------------------------------------------------------------------- the look

    def look_at_clock(self) -> None:
        """Begin anew with what compares the venue's clock with ours, where ours was set."""
        if self._steps.was_set():
            self.memory.times.reset()
            self._venue_clock.step(self._clock.time_ns())

    def look(self) -> Seen:
        """Return what is to be told and done; to be called once a second."""
        now, holes = self._clock.monotonic(), self.holes
        gaps = holes.quiet(now)
        if gaps:
            self._counters["gaps"] += len(gaps)
        findings = self._venue_clock.look(self.memory.sample())
        mute = self._silence.judge(self.memory.spoke(), now)
        if hushed := self._silence.hushed(now):
            end = f"nothing came of any subscription for {hushed:.0f} s"
            return Seen(gaps, findings, (), end)
        for each in mute:
            if each.missed:  # looked at once a second, so it may have spoken a second before
                holes.suspect(each.subscription, self._clock.time_ns(), each.seconds + 1.0)
        known = [each for each in mute if each.usual is not None]
        if self._silence.most(known) or any(each.strikes == 2 for each in known):
            return Seen(gaps, findings, (), silent(known))
        return Seen(gaps, findings, mute, "")


def silent(mute: Sequence[Stalled]) -> str:
    """Say what is silent, and for how long."""
    first, more = mute[0], len(mute) - 1
    usual = f", usually every {first.usual:.1f} s" if first.usual is not None else ""
    others = f" (and {more} more)" if more else ""
    return f"nothing came of {first.subscription}{others} for {first.seconds:.0f} s{usual}"
