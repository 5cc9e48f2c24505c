"""Taps receive all that reaches a feed from outside: raw frames, REST answers, and facts.

A fact is what a feed did besides parsing: a connection opened or was lost, a handover took place. Frames
and answers with the facts between them are all that a replay needs to make the same events again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

from tapeloom.events import Status
from tapeloom.plugin import Clock, Request

#: The facts. The reference of the tape format has their fields.
FactName: TypeAlias = Literal[
    "opened", "handover", "handover_read", "reply", "status",
    "live", "refused", "lost", "stalled", "leaving", "dropped", "forgotten", "stalls_checked", "feed_checked", "tick",
    "listing", "answered", "requested", "filled", "given_up", "history_emitted", "symbols", "resumed", "ended",
]  # fmt: skip


class FrameTap(Protocol):
    """Receives the raw data of one feed: the tape recorder and the flight recorder are taps."""

    def frames(self, connection: int, recv: int, payloads: Sequence[bytes], size: int) -> None:
        """Record frames of one read at *recv* (ns), *size* bytes in total, that were parsed together.

        *connection* is the number of the feed's connection: 1 is its first, 2 the next. The facts that
        result from parsing the frames are recorded before them, all others after.
        """
        ...

    def answer(self, recv: int, request: Request, body: bytes) -> None:
        """Record the answer to a REST request. A fact after it tells how it was used."""
        ...

    def fact(self, ts: int, monotonic: float, name: FactName, fields: Mapping[str, Any]) -> None:
        """Record a fact at *ts* (ns) and *monotonic* (seconds), with fields that JSON can hold."""
        ...

    def unreadable(self, recv: int, frame: bytes, error: str) -> None:
        """Record that a frame, which `frames` gets as well, could not be parsed, and the error."""
        ...

    async def run(self) -> None:
        """Do periodic work until cancelled."""
        ...


class FactLog:
    """Passes the facts of one feed on to its taps."""

    def __init__(self, clock: Clock) -> None:
        self.taps: Sequence[FrameTap] = ()
        self._clock = clock

    def record(self, ts: int, name: FactName, **fields: Any) -> None:
        """Pass a fact at *ts*, in ns, to the taps."""
        for tap in self.taps:
            tap.fact(ts, self._clock.monotonic(), name, fields)

    def status(self, status: Status) -> Status:
        """Pass a status that is about to be emitted to the taps, and return it."""
        self.record(status.ts, "status", of=status_fields(status))
        return status


def status_fields(status: Status) -> list[str]:
    """Return a status as a fact holds it: state, detail, symbol, channel."""
    return [status.state, status.detail, status.symbol, status.channel]
