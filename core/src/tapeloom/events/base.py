"""The base of all event classes: the decorator that makes them, and their times as datetimes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attrs import frozen as frozen
else:
    from functools import partial

    import attrs

    frozen = partial(attrs.define, weakref_slot=False)


def utc(ts: int) -> datetime:
    """Return *ts* as an aware UTC datetime; nanoseconds are truncated to microseconds."""
    seconds, nanoseconds = divmod(ts, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanoseconds // 1000)


class Timed:
    """The times of an event as datetimes."""

    __slots__ = ()

    if TYPE_CHECKING:
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
