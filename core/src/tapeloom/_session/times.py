"""What a venue's events say of its clocks: up to when all is known, and how far they are ahead of ours.

By channel, because a venue may take the times of each from another clock.
"""

from __future__ import annotations

from collections.abc import Iterable

from tapeloom.events import Event, Gap, Reject, Status

__all__ = ["OURS", "Times"]

#: What the venue's clock has not stamped.
OURS = frozenset({Gap, Reject, Status})


class Times:
    """The times of one session's channels."""

    def __init__(self) -> None:
        self._until: dict[str, int] = {}
        self._leads: dict[str, _Lead] = {}

    def learn(self, events: Iterable[Event]) -> None:
        """Look at events, the oldest first."""
        until, leads = self._until, self._leads
        for event in events:
            ts, recv, channel = event.ts, event.recv, event.channel
            # What a venue sends without a time bears ours.
            if ts == recv or type(event) in OURS:
                continue
            until[channel] = ts
            lead = leads.get(channel)
            if lead is None:
                leads[channel] = _Lead(ts - recv, recv)
            else:
                lead.note(ts - recv, recv)

    def told(self, channel: str, until: int) -> None:
        """Take note that all was said of a channel, up to then at the least."""
        self._until[channel] = max(self._until.get(channel, 0), until)

    def set(self) -> None:
        """Take note that our clock was set: how far the venue's is ahead of it is to be seen anew."""
        self._leads.clear()

    def until(self, channel: str) -> int | None:
        """Return the time of the last event of a channel, None where there was none."""
        return self._until.get(channel)

    @property
    def last(self) -> int:
        """The last time of any channel, 0 where there is none."""
        return max(self._until.values(), default=0)

    @property
    def known(self) -> bool:
        """Whether the distance of any of the venue's clocks is known."""
        return bool(self._leads)

    def lead(self, channel: str) -> int:
        """Return how far its clock runs ahead of ours, at the least."""
        lead = self._leads.get(channel)
        if lead is not None:
            return lead.most
        return max((each.most for each in self._leads.values()), default=0)


class _Lead:
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


#: For so many ns the distance of a clock is remembered, once as the newest and once as the older.
_WHILE = 60_000_000_000
