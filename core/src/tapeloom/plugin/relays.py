"""Sources that relay the events of other streams, and the cursors that say how far they were read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Protocol, runtime_checkable

from attrs import frozen

from tapeloom.events import Event

from .protocol import Source


@frozen
class Cursor:
    """How far a relayed stream has been read: what precedes it was delivered, what follows was not.

    Sinks store it together with the events before it, so that the next run continues after them. It
    travels through the queues of sinks behind its events, so it has the fields by which these sort.
    """

    type: ClassVar[str] = "cursor"
    venue: ClassVar[str] = ""
    symbol: ClassVar[str] = ""
    channel: ClassVar[str] = ""
    ts: ClassVar[int] = 0

    feed: str  #: The name of the feed.
    origin: str  #: What the number counts in. Numbers of two origins cannot be compared.
    number: int  #: Grows with each cursor of the same origin.
    recv: int = 0  #: Our time, in ns.
    text: str = ""  #: What else the source has to know to continue.


class RelayedBatch(list[Event]):
    """Events that a relay delivers, and the cursor after them."""

    __slots__ = ("cursor",)

    def __init__(self, events: Iterable[Event] = (), cursor: Cursor | None = None) -> None:
        super().__init__(events)
        self.cursor = cursor


@runtime_checkable
class Relay(Source, Protocol):
    """A source of events that another process has made and checked.

    They have the names of their own venues, and include its gaps, rejects and statuses. Core passes them on
    as they are: without gap tracking, listing or bounds, and with one set of stages for each venue, whose
    time is that of the events. The feed may leave out symbols and channels; it then receives all. What the
    source itself misses, it reports as a `Gap`.

    It delivers each `RelayedBatch` with a cursor. After a failure it continues where it stood by itself.
    """

    def resume(self, cursor: Cursor | None) -> None:
        """Continue after *cursor*, the earliest that a store has; None if none has one.

        Called once, before `run`.
        """
        ...
