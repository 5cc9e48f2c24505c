"""A gap without a known end, and the subscription that it is in."""

from __future__ import annotations

from collections.abc import Collection

from attrs import Factory, define, frozen

from tapeloom.events import Event, GapCause, Trade

from .gap_fill import GapFill, TrackedGap


@frozen
class LastStored:
    """What a store keeps of the last trade or closed bar of a subscription."""

    ts: int  #: in ns on the venue's clock; of a bar its begin
    recv: int  #: in ns on our clock
    id: int | str = ""  #: the id of a trade; a bar has none


@define(eq=False)
class OpenGap:
    """A gap without a known end: nothing of its subscription has come since it opened."""

    since: int  #: in ns on the venue's clock
    cause: GapCause
    last: Event | LastStored | None  #: the last trade or bar before it
    known: Collection[int | str]  #: ids around its begin that were delivered
    #: When it was opened in monotonic seconds, and how far our clock was ahead of them, in ns.
    opened: tuple[float, int]
    last_at: float  #: when `last` came, in monotonic seconds
    #: When the venue acknowledged the subscription again: in ns on its clock, in ns on ours, and in
    #: monotonic seconds. None while it has not.
    confirmed: tuple[int, int, float] | None = None
    reported: TrackedGap | None = None  #: set once it was reported
    #: Whether it went on after that: more was missed, whatever the times of its last report.
    has_grown: bool = False

    def is_before(self, event: Event) -> bool:
        """Return whether *event* lies after the gap: a venue may repeat what it sent before it."""
        last_id, event_id = id_of(self.last), id_of(event)
        if type(last_id) is int and type(event_id) is int and self.last is not None:
            return event_id > last_id or event.ts > self.last.ts
        return True

    def repeats(self, event: Event) -> bool:
        """Return whether a venue repeats *event* after a restart: a trade from before the gap."""
        if self.cause != "restart" or type(event) is not Trade or event.origin == "live":
            return False
        return event.ts < self.since or event.id in self.known


@define(eq=False)
class Watched:
    """A subscription with gaps: one without an end, and those that have been reported."""

    fill: GapFill
    open: OpenGap | None = None
    reported_at: float = 0.0  #: when a gap was last reported, in monotonic seconds
    #: Whether the venue can answer a query for a gap, by whether it has the id before it as a number.
    can_fill: dict[bool, bool] = Factory(dict)

    def parts_not_held(self, after_id: int, before_id: int) -> list[tuple[int, int]]:
        """Return the parts of the ids between *after_id* and *before_id* that no gap holds.

        Each part is given by the ids on both sides of it.
        """
        parts = [(after_id, before_id)]
        if self.fill.end_id <= after_id:
            return parts
        for tracked in self.fill:
            low, high = tracked.gap.after_id, tracked.gap.before_id
            if type(low) is not int or type(high) is not int:
                continue
            parts = [
                part
                for a, b in parts
                for part in ((a, min(b, low + 1)), (max(a, high - 1), b))
                if part[1] - part[0] > 1
            ]
        return parts


def id_of(event: Event | LastStored | None) -> int | str | None:
    """Return the id of a trade; None if there is no event, or it has no id."""
    event_id = getattr(event, "id", "")
    return None if event_id == "" else event_id
