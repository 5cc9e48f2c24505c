"""Finds the subscriptions that are silent although their venue should send: those that have stalled.

Core decides what a stall is: it reports the status "stalled" and a gap. Not every one of them is an alarm. A
channel that is quiet by nature, or a market that is closed, is reported as well, because something might
have been missed. It counts as stalled here only if

- it had events at 20 times before, and no event since; or
- the venue's history shows that events were missed, and none has come since.

After a lost connection core does not know a stall from a pause. A subscription that is silent since then
counts once it is silent for a minute, and for 20 times as long as it usually is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from attrs import define
from tapeloom import Event, Gap, Status

#: Venue, symbol and channel.
Key: TypeAlias = tuple[str, str, str]

#: At so many times a subscription must have had events so that its usual pause is known.
_MIN_TIMES = 20
#: The silence after a lost connection that counts, as a multiple of the usual pause, and at least, in ns.
_TIMES_PAUSE, _MIN_SILENCE = 20, 60_000_000_000
#: Causes of gaps after which a subscription may stay silent; True: core has judged the silence already.
_CAUSES = {"stall": True, "silence": True, "disconnect": False, "error": False, "ended": False}


@define
class Cadence:
    """When a subscription had live events. Times are ns on our clock."""

    times: int = 0  #: how often; several events that are written together count once
    first: int = 0
    last: int = 0

    def record(self, recv: int) -> None:
        """Record live events, the last of which was read at *recv*."""
        self.times += 1
        self.first, self.last = self.first or recv, recv

    @property
    def is_known(self) -> bool:
        """Whether it had events often enough."""
        return self.times >= _MIN_TIMES

    @property
    def usual_pause(self) -> float:
        """The mean pause between two times, in ns."""
        return (self.last - self.first) / max(self.times - 1, 1)


@define
class _Silence:
    since: int  #: when it was reported
    is_judged: bool  #: core has compared it with the cadence
    is_counted: bool = False
    is_filled: bool = False  #: the venue's history was asked, and has brought all that was missing
    has_missed: bool = False  #: the venue's history has brought events since


class SilenceWatch:
    """The subscriptions that are silent since a report about them."""

    def __init__(self) -> None:
        self._silent: dict[Key, _Silence] = {}

    def __len__(self) -> int:
        """Return how many subscriptions are silent."""
        return len(self._silent)

    def __contains__(self, key: Key) -> bool:
        """Return whether the events of a subscription must be passed to `record`."""
        return key in self._silent

    def report(self, event: Gap | Status) -> None:
        """Process a report about one subscription."""
        key = event.venue, event.symbol, event.channel
        if type(event) is Status:
            if event.state in ("abandoned", "refused", "halted"):
                self._silent.pop(key, None)
            return
        assert type(event) is Gap
        is_judged, silence = _CAUSES.get(event.cause), self._silent.get(key)
        if is_judged is None:
            return
        if silence is None:
            silence = self._silent[key] = _Silence(event.recv, is_judged)
        silence.is_judged |= is_judged
        silence.is_filled = event.state == "filled"

    def record(self, key: Key, events: Sequence[Event]) -> None:
        """Process events of a silent subscription: a live one ends its silence."""
        silence = self._silent.get(key)
        if silence is None:
            return
        for event in events:
            origin = getattr(event, "origin", "live")
            silence.has_missed |= silence.is_judged and origin == "backfill"
            if origin == "live" and event.recv >= silence.since:
                del self._silent[key]
                return

    def stalled(self, cadences: dict[Key, Cadence], now: int) -> tuple[list[Key], list[Key]]:
        """Return which subscriptions are stalled at *now*, in ns, and which of them are so anew."""
        stalled, new = [], []
        for key, silence in list(self._silent.items()):
            cadence = cadences.get(key, Cadence())
            limit = max(_MIN_SILENCE, _TIMES_PAUSE * cadence.usual_pause)
            is_long = silence.is_judged or now - max(silence.since, cadence.last) > limit
            has_nothing = silence.is_judged and silence.is_filled  # history shows that it was quiet
            if silence.has_missed or (cadence.is_known and is_long and not has_nothing):
                stalled.append(key)
                if not silence.is_counted:
                    silence.is_counted = True
                    new.append(key)
        return stalled, new
