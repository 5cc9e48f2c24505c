"""Events about the stream itself: what is missing, what was rejected, what changed its state."""

from __future__ import annotations

from typing import ClassVar, TypeAlias

from .base import Timed, frozen
from .market import Bar, Book, GapState, Quote, Ticker, Trade


@frozen
class Gap(Timed):
    """Data known to be missing: one symbol, one channel, from `since` to `until`.

    It stands before the first event after the hole. `ts` is `until`. `missing` is the number of
    lost events where that is known. `cause` is one word: "disconnect", "sequence", "overflow", …
    """

    type: ClassVar[str] = "gap"

    venue: str
    symbol: str
    ts: int
    recv: int
    since: int
    until: int
    cause: str
    missing: int | None = None
    state: GapState = "open"
    channel: str = ""


@frozen
class Reject(Timed):
    """Something that came and was not passed on.

    `rule` is the name of the rule it broke, `evidence` what shows it. `event` is the rejected
    event; it is None where the frame could not be read, and `evidence` then holds the frame.
    """

    type: ClassVar[str] = "reject"

    venue: str
    symbol: str
    ts: int
    recv: int
    rule: str
    evidence: str
    event: Event | None = None
    channel: str = ""


@frozen
class Status(Timed):
    """A change of state, of a feed or of one symbol's channel in it.

    `state` is one word: "live", "connected", "reconnecting", "refused", "stale", "synced",
    "notice", …; `detail` says the rest.
    """

    type: ClassVar[str] = "status"

    venue: str
    symbol: str
    ts: int
    recv: int
    state: str
    detail: str = ""
    channel: str = ""


Event: TypeAlias = Trade | Quote | Book | Bar | Ticker | Gap | Reject | Status

#: The events that core and stages make: no venue's clock has stamped them.
OURS = frozenset({Gap, Reject, Status})
