"""Events about the stream itself: `Gap`, `Reject` and `Status`, and the union of all events."""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar, TypeAlias

from attrs import field

from tapeloom.errors import printable

from .base import BaseEvent, event_class
from .closed_sets import GapCause, GapState, RejectRule, StatusState
from .market import Bar, Book, Quote, Ticker, Trade


@event_class
class Gap(BaseEvent):
    """Data known to be missing: one symbol and channel, from `since` to `until`.

    It is delivered before the first event after the gap. When the gap has been filled, or cannot be, it is
    delivered again with another `state`.
    """

    type: ClassVar[str] = "gap"

    venue: str  #: The venue as named in the stack.
    symbol: str  #: The unified symbol; empty means all symbols of the feed.
    ts: int  #: The same as `until`, in ns.
    recv: int  #: Our time of the read that ended the gap, in ns.
    since: int  #: The venue's time of the last event before the gap, in ns.
    until: int  #: The venue's time of the first event after the gap, in ns.
    cause: GapCause  #: Why data is missing.
    missing: int | None = None  #: How many events or book updates are missing; None if not known.
    state: GapState = "open"  #: How much of the gap has been filled.
    channel: str = ""  #: The channel; empty means all channels of the feed.
    after_id: int | str | None = None  #: The id of the last event before the gap; None without ids.
    #: The id of the first event after the gap; None if not known.
    before_id: int | str | None = None

    @property
    def identity(self) -> tuple[Hashable, ...]:
        """What tells it from any other gap: where it begins. Its end and its state may change."""
        return self.type, self.venue, self.symbol, self.channel, self.since, self.after_id


@event_class
class Reject(BaseEvent):
    """A frame or event that arrived and was not delivered."""

    type: ClassVar[str] = "reject"

    venue: str  #: The venue as named in the stack.
    symbol: str  #: The unified symbol; empty if the frame could not be read.
    ts: int  #: The time of the rejected event, in ns; `recv` if there is no event.
    recv: int  #: Our time of the read, in ns.
    rule: RejectRule | str  #: The rule that was broken; a plugin may add rules of its own.
    #: The values that broke the rule, or the frame if it could not be read; always printable.
    evidence: str = field(converter=printable)
    event: Event | None = None  #: The rejected event; None if the frame could not be read.
    channel: str = ""  #: The channel of the rejected event; empty if not known.

    def _content(self) -> Hashable:
        return self.rule, self.evidence


@event_class
class Status(BaseEvent):
    """A change of state of a feed, or of one subscription in it."""

    type: ClassVar[str] = "status"

    venue: str  #: The venue as named in the stack.
    symbol: str  #: The unified symbol; empty for a connection or the whole feed.
    ts: int  #: The time of the change, in ns: ours, unless the venue sent one.
    recv: int  #: Our time, in ns.
    state: StatusState | str  #: The new state; a plugin may add states of its own.
    #: The explanation for a person; always printable.
    detail: str = field(default="", converter=printable)
    channel: str = ""  #: The channel; empty for a connection or the whole feed.


#: Any event: one of these eight classes, or of a plugin's own.
Event: TypeAlias = Trade | Quote | Book | Bar | Ticker | Gap | Reject | Status | BaseEvent

#: The event types that core and stages create: their times are ours, not those of a venue's clock.
OURS = frozenset({Gap, Reject, Status})
