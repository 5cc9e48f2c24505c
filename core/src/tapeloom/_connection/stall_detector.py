"""Detects stalled subscriptions by comparing their silence with their cadence so far."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import NamedTuple

from attrs import define

from tapeloom.plugin import Subscription, channel_parts

#: Channels whose history can be fetched, so that a gap in them is worth opening on suspicion.
_FETCHABLE = frozenset({"trades", "agg_trades"})
#: Number of pauses after which their mean is used.
_MIN_PAUSES = 20
#: Least weight of the newest pause in the mean, and decay of the longest pause per pause.
_MIN_WEIGHT, _DECAY = 0.02, 0.998
#: The timeout as a multiple of the mean and of the longest pause. Trades come in bursts; with
#: random (exponential) pauses, one of 20 times the mean occurs once in 500 million.
_TIMES_MEAN, _TIMES_LONGEST = 20.0, 3.0
#: Seconds between two checks: the time of the last event is known to this precision.
_CHECK_SECONDS = 1.0
#: Shortest timeout in seconds.
_MIN_TIMEOUT = 5.0
#: Until the cadence is known, a feed is busy if this many reads with events came in each check, and
#: its silence is judged by so many of them; fewer make the timeout longer.
_BUSY_READS, _BUSY_CHECKS = 3, 4
#: Timeout in seconds of a subscription without events so far, and the longest it doubles to.
_FIRST_TIMEOUT, _MAX_TIMEOUT = 60.0, 3600.0


class Stalled(NamedTuple):
    """A subscription without events for `silent_seconds`.

    `usual_pause` is the mean pause between its events in seconds, None where it is not known.
    `stalls` is how many times in a row it was found stalled.
    """

    subscription: Subscription
    silent_seconds: float
    usual_pause: float | None
    stalls: int

    @property
    def may_have_missed(self) -> bool:
        """Whether to report a gap: it was active regularly, or history shows what was missed."""
        fetchable = channel_parts(self.subscription.channel)[0] in _FETCHABLE
        return self.usual_pause is not None or fetchable


@define
class Cadence:
    """How often one subscription has events. All times are monotonic seconds."""

    last_active: float
    waiting_since: float  #: start of the current timeout
    complete_until: float  #: time of its last event or acknowledgement; none is missing before
    timeout: float  #: seconds it may be silent
    checks: int = 0  #: number of checks that found new events
    mean_pause: float = 0.0
    longest_pause: float = 0.0
    stalls: int = 0

    def record_active(self, now: float, step: float) -> None:
        """Record that the subscription had events since the last check, *step* seconds ago."""
        pause, self.stalls = now - self.last_active, 0
        self.last_active = self.waiting_since = self.complete_until = now
        self.checks += 1
        if self.checks == 1 or pause < 0:
            # The time until the first event says nothing about the cadence. After a lost connection,
            # `last_active` is infinite, so the pause is negative and says nothing either.
            return
        self.mean_pause += (pause - self.mean_pause) * max(1.0 / (self.checks - 1), _MIN_WEIGHT)
        self.longest_pause = max(pause, self.longest_pause * _DECAY)
        if self.checks > _MIN_PAUSES:
            # Pauses are measured between checks, so the mean between events must be estimated.
            pause = _true_pause(self.mean_pause, step)
            longest = self.longest_pause
            self.timeout = max(_MIN_TIMEOUT, _TIMES_MEAN * pause, _TIMES_LONGEST * longest)

    def record_stall(self, subscription: Subscription, now: float) -> Stalled:
        """Return that the subscription has stalled, and start its next timeout."""
        self.stalls += 1
        usual = self.mean_pause if self.checks > _MIN_PAUSES else None
        if self.stalls > 1 or usual is None:
            self.timeout = min(2 * max(self.timeout, _FIRST_TIMEOUT), _MAX_TIMEOUT)
        self.waiting_since = now
        return Stalled(subscription, now - self.complete_until, usual, self.stalls)


def _true_pause(observed: float, step: float) -> float:
    """Return the mean pause between events, given the mean pause *observed* at checks every *step*.

    Checking once per step hides the true rate: a subscription with 2 or with 20 events per step has
    some at nearly every check. It is estimated from the share of checks with events (Poisson).
    """
    return -step / math.log1p(-step / observed) if observed > step else 0.0


@define
class _FirstReads:
    """The reads with events since the subscriptions were acknowledged; shows soon if a feed is busy.

    Reads count, not events: one large trade is a hundred events. All times are monotonic seconds.
    """

    last_read: float = math.inf
    busy_checks: int = 0  #: checks in a row that found many reads
    is_slower: bool = False  #: the last check found some reads, but fewer than a busy feed has

    def restart(self, now: float) -> None:
        """Begin again: the next check sees only a part of its second, or snapshots."""
        self.last_read, self.busy_checks, self.is_slower = now, -1, False

    def record(self, reads: int, now: float) -> None:
        """Record what a check found."""
        if not reads:
            return
        paused = now - self.last_read > 1.5 * _CHECK_SECONDS
        is_slower = reads < _BUSY_READS and self.busy_checks >= 0
        if paused or (is_slower and self.is_slower):
            self.busy_checks = 0  # it has pauses
        elif not is_slower:
            self.busy_checks += 1
        self.last_read, self.is_slower = now, is_slower

    def silent_for(self, now: float) -> float:
        """Return for how many seconds a busy feed has been silent, 0.0 within the timeout."""
        if self.busy_checks < 1:
            return 0.0
        silent = now - self.last_read
        timeout = _MIN_TIMEOUT * max(_BUSY_CHECKS / self.busy_checks, 1.0)
        return silent if silent > timeout else 0.0


class StallDetector:
    """Detects stalled subscriptions of one supervisor; `check` is called once a second."""

    def __init__(self) -> None:
        self._cadences: dict[Subscription, Cadence] = {}
        self._overall = Cadence(math.inf, math.inf, 0.0, math.inf)  # of all subscriptions together
        self._first_reads = _FirstReads()
        self._last_check: float | None = None

    def start(self, subscriptions: Iterable[Subscription], now: float) -> None:
        """Start the timeouts of acknowledged subscriptions."""
        for subscription in subscriptions:
            new = Cadence(now, now, now, _FIRST_TIMEOUT)
            cadence = self._cadences.setdefault(subscription, new)
            cadence.last_active = cadence.waiting_since = cadence.complete_until = now
        if self._overall.waiting_since > now:
            self._overall.last_active = self._overall.waiting_since = now
        self._first_reads.restart(now)

    def pause(self) -> None:
        """Stop all timeouts until an acknowledgement or an event: the connection was lost."""
        for cadence in (self._overall, *self._cadences.values()):
            cadence.last_active = cadence.waiting_since = math.inf
        self._first_reads.restart(math.inf)

    def forget(self, subscriptions: Iterable[Subscription]) -> None:
        """Remove subscriptions that have ended."""
        for subscription in subscriptions:
            self._cadences.pop(subscription, None)

    def not_read_for(self, seconds: float, now: float) -> None:
        """Do not count the last *seconds* as silence of the venue: we did not read.

        The timeouts do not begin anew: on a busy machine no stall would ever be found.
        """
        for cadence in (self._overall, *self._cadences.values()):
            if cadence.waiting_since < now:
                cadence.waiting_since = min(cadence.waiting_since + seconds, now)
                cadence.last_active = min(cadence.last_active + seconds, now)
        first = self._first_reads
        if first.last_read < now:
            first.last_read = min(first.last_read + seconds, now)

    def check(
        self, active: Collection[tuple[str, str]], now: float, reads: int = 0
    ) -> list[Stalled]:
        """Return the subscriptions that were silent for longer than their timeout.

        *active* holds each (symbol, channel) with events since the last check, *reads* is the number
        of reads that had events.

        A subscription without any event so far may be quiet: it is returned once, and only while
        others are active. Books, quotes and tickers begin with a snapshot, and missed trades
        can be fetched: such subscriptions are returned again, with growing timeouts.
        """
        self._record_active(active, now)
        self._first_reads.record(reads, now)
        if not any(cadence.checks for cadence in self._cadences.values()):
            return []  # no subscription has had an event yet
        overdue = [
            cadence.record_stall(subscription, now)
            for subscription, cadence in self._cadences.items()
            if now - cadence.waiting_since > cadence.timeout
        ]
        return [
            stalled
            for stalled in overdue
            if stalled.may_have_missed
            or stalled.stalls == 1
            or _begins_with_snapshot(stalled.subscription.channel)
        ]

    def all_silent_for(self, now: float) -> float:
        """Return for how many seconds no subscription had events, 0.0 within the timeout.

        To be called after `check`. Many subscriptions with rare events are together seldom silent,
        so all of them have a shorter timeout than each of them.
        """
        overall, several = self._overall, len(self._cadences) > 1
        if overall.checks <= _MIN_PAUSES:
            return self._first_reads.silent_for(now)
        silent = now - overall.waiting_since
        return silent if several and silent > overall.timeout else 0.0

    def event_rate(self, subscription: Subscription) -> float:
        """Return the events per second of *subscription* as seen by the checks, 0.0 if unknown."""
        cadence = self._cadences.get(subscription)
        return 1.0 / cadence.mean_pause if cadence is not None and cadence.mean_pause else 0.0

    def maybe_stalled(self, now: float) -> dict[Subscription, float]:
        """Return the subscriptions silent for longer than ever before, and since when, in seconds.

        That is too short to call them stalled. But if the connection is lost *now*, they may have
        stalled before that, so their gap begins earlier. If all together are silent for longer than
        ever before, each of them may have stalled.
        """
        overall, since = self._overall, dict[Subscription, float]()
        if (
            overall.checks > 1
            and now - overall.last_active > _CHECK_SECONDS + overall.longest_pause
        ):
            since = {
                subscription: max(cadence.complete_until, overall.last_active)
                for subscription, cadence in self._cadences.items()
            }
        return since | {
            subscription: cadence.complete_until
            for subscription, cadence in self._cadences.items()
            if now - cadence.complete_until
            > _CHECK_SECONDS
            + (cadence.longest_pause if cadence.checks > _MIN_PAUSES else _MIN_TIMEOUT)
        }

    def is_majority(self, stalled: Collection[Stalled]) -> bool:
        """Return whether more than half of all stalled: then the connection is at fault."""
        return len(stalled) > 1 and 2 * len(stalled) > len(self._cadences)

    def _record_active(self, active: Collection[tuple[str, str]], now: float) -> None:
        step = 0.0 if self._last_check is None else now - self._last_check
        self._last_check = now
        for symbol, channel in active:
            cadence = self._cadences.get(Subscription(symbol, channel))
            if cadence is not None:
                cadence.record_active(now, step)
        if active:
            self._overall.record_active(now, step)


def _begins_with_snapshot(channel: str) -> bool:
    """Return whether a venue sends the current state right after subscribing to *channel*."""
    return channel_parts(channel)[0] in {"book", "quotes", "ticker"}
