"""The base of all event classes: the decorator that makes them, their times, identity and kind."""

from __future__ import annotations

from collections.abc import Hashable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar

import attrs

if TYPE_CHECKING:
    from attrs import frozen as frozen
else:
    from functools import partial

    frozen = partial(attrs.define, weakref_slot=False)


def utc(ts: int) -> datetime:
    """Return *ts* as an aware UTC datetime; nanoseconds are truncated to microseconds."""
    seconds, nanoseconds = divmod(ts, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanoseconds // 1000)


class BaseEvent:
    """What all events have: a type, two times, an identity, and whether they are a state."""

    __slots__ = ()

    type: ClassVar[str]

    if TYPE_CHECKING:
        venue: str  #: The venue as named in the stack.
        symbol: str  #: The unified symbol.
        channel: str  #: The channel, with its parameter.
        ts: int  #: The venue's time, in ns.
        recv: int  #: Our time of the read, in ns.

    @property
    def time(self) -> datetime:
        """The venue's time as an aware UTC datetime."""
        return utc(self.ts)

    @property
    def received(self) -> datetime:
        """The time of our read as an aware UTC datetime."""
        return utc(self.recv)

    @property
    def is_state(self) -> bool:
        """Whether the next event of its type, symbol and channel replaces it.

        False for an occurrence, such as a trade: each one counts.
        """
        return False

    @property
    def identity(self) -> tuple[Hashable, ...]:
        """What tells an event from any other, and is the same wherever it was received.

        Two connections, or the stream and REST, give equal identities for the same event. Where the
        venue numbers its events, it has the number, else all that the event says.
        """
        return self.type, self.venue, self.symbol, self.channel, self.ts, self._content()

    def _content(self) -> Hashable:
        """Return the part of the identity that depends on the type: all other fields but our time."""
        common = ("venue", "symbol", "channel", "ts", "recv", "origin")
        fields = attrs.fields(type(self))  # type: ignore[arg-type]  # every event class is of attrs
        names = [field.name for field in fields if field.name not in common]
        return tuple(getattr(self, name) for name in names)
