"""What all events have in common: how their classes are made, and their times."""

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
    """Return *ts* as an aware UTC datetime; digits below the microsecond are cut off."""
    seconds, nanoseconds = divmod(ts, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanoseconds // 1000)


class Timed:
    """What every event can tell of its times."""

    __slots__ = ()

    if TYPE_CHECKING:
        ts: int
        recv: int

    @property
    def time(self) -> datetime:
        """The venue's time, aware, UTC."""
        return utc(self.ts)

    @property
    def received(self) -> datetime:
        """The time of our read, aware, UTC."""
        return utc(self.recv)
