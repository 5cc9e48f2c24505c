"""When venues trade: outside of these times silence means nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from attrs import frozen

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_FORM = re.compile(
    rf"(?P<venue>\S+) (?P<first>{'|'.join(_DAYS)})(?:-(?P<last>{'|'.join(_DAYS)}))?"
    r" (?P<opens>\d\d:\d\d)-(?P<closes>\d\d:\d\d) (?P<zone>\S+)"
)


@frozen
class Session:
    """The hours of a venue on some days of the week. A close before the open is on the next day."""

    venue: str
    days: tuple[int, ...]  #: Monday is 0
    opens: time
    closes: time
    zone: str  #: such as America/New_York

    def includes(self, ns: int) -> bool:
        """Return whether the venue trades at a time in ns since 1970."""
        local = datetime.fromtimestamp(ns // 1_000_000_000, UTC).astimezone(ZoneInfo(self.zone))
        now, today = local.time(), local.weekday()
        yesterday = (local - timedelta(days=1)).weekday()
        if self.opens < self.closes:
            return today in self.days and self.opens <= now < self.closes
        return (today in self.days and now >= self.opens) or (
            yesterday in self.days and now < self.closes
        )


def parse_session(text: str) -> Session:
    """Return the session of a text such as ``alpaca Mon-Fri 09:30-16:00 America/New_York``.

    Raises ValueError for any other text.
    """
    example = "alpaca Mon-Fri 09:30-16:00 America/New_York"
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(
            f"expected venue, days, hours and time zone, such as {example!r}, got {text!r}"
        )
    first = _DAYS.index(match["first"])
    last = _DAYS.index(match["last"] or match["first"])
    days = tuple((first + n) % 7 for n in range((last - first) % 7 + 1))
    try:
        ZoneInfo(match["zone"])
        opens, closes = time.fromisoformat(match["opens"]), time.fromisoformat(match["closes"])
    except (ValueError, OSError, KeyError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise ValueError(
            f"{text!r} has an unknown time or time zone ({error}). Write it as in {example!r}"
        ) from error
    return Session(match["venue"], days, opens, closes, match["zone"])


def in_session(sessions: Iterable[Session], venue: str, ns: int) -> bool:
    """Return whether *venue* trades at a time in ns since 1970; True if nothing is said about it."""
    of_venue = [session for session in sessions if session.venue == venue]
    return not of_venue or any(session.includes(ns) for session in of_venue)
