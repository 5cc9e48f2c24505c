"""The guarantees of the contracts, their exceptions, and the description of a capture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import field, frozen

__all__ = ["SINK", "STAGE", "TRANSPORT", "VENUE", "Capture", "ContractViolation", "NotApplicable"]

#: The guarantees of a venue: key in conformance files → claim.
VENUE: dict[str, str] = {
    "symbols": "symbols convert to native names and back; an invalid symbol raises SymbolError",
    "acknowledge": "every subscription is requested, and its acknowledgement is decoded",
    "refuse": "a refusal is decoded, with the subscriptions it refuses",
    "silence": "an unanswered message is reported and sent again on a new connection",
    "unsubscribe": "the venue stops sending dropped subscriptions",
    "events": "every channel yields events of its type, with venue, symbol, channel and recv",
    "batches": "the same frames in batches of any size give the same events",
    "poison": "malformed frames are rejected or counted, and do not affect valid ones",
    "unknown": "messages of an unknown type or symbol are counted and yield no event",
    "exact": "numbers keep the digits the venue sent",
    "times": "`ts` is the venue's time, in ns UTC",
    "sides": "`side` is the taker's",
    "limits": "the venue's rate limits are declared and obeyed",
    "heartbeat": "the heartbeat is what the venue expects, and its reply is decoded",
    "farewell": "a planned disconnect is decoded, and no trade is lost without a Gap",
    "book": "snapshot and deltas give the venue's book",
    "history": "REST returns every declared kind of history, with the venue's data",
    "truth": "every event the venue sent is delivered once, in order",
    "backends": "it runs on each event loop it declares, and raises BackendUnsupported on others",
    "deterministic": "the same frames give the same events",
    "captures": "every recorded frame is decoded",
    "secrets": "secrets appear in no repr, event, error or log line",
}
#: The guarantees of a stage: key → claim.
#: The guarantees of a stage.
STAGE: dict[str, str] = {
    "batches": "the same events in batches of any size give the same output",
    "passes": "events it does not handle are passed on, in order",
    "unchanged": "input events are not modified",
    "hostile": "NaN and infinity raise no exception",
    "accounted": "every input event is passed on or is in a Reject",
    "timed": "a timed stage follows the rules for timed stages",
    "deterministic": "the same events give the same output",
}
#: The guarantees of a sink: key → claim.
#: The guarantees of a sink.
SINK: dict[str, str] = {
    "once": "everything written arrives once, in order, exactly, in batches of any size",
    "acknowledgement": "its guarantee holds when the acknowledgement of any batch is lost",
    "request": "its guarantee holds when any batch does not reach the store, or an opening fails",
    "restart": "its guarantee holds after a restart, with batches cut differently",
    "positions": "a new run begins at 0, with all positions that were stored, the newest of each key",
    "durable": "what it has acknowledged is stored, also if the process ends without closing it",
    "killed": "its guarantee holds when the process is killed at random moments",
    "failure": "a store that cannot be opened is reported with the remedy, without secrets",
    "check": "`check` describes the store and changes nothing",
    "threads": "its plain methods may be called in any thread",
    "backends": "it runs on each event loop it declares",
}
#: The guarantees of a transport: key → claim.
#: The guarantees of a transport.
TRANSPORT: dict[str, str] = {
    "order": "every message is delivered once, in order, however TCP splits its bytes",
    "together": "the messages of one read are delivered together",
    "pieces": "fragments are reassembled; a message over the size limit ends the connection",
    "control": "pings are answered and control frames reported, also between messages",
    "farewell": "messages before a close frame are delivered before its code and reason are raised",
    "broken": "a protocol error closes the connection after earlier messages are delivered",
    "torn": "an end without a close frame raises ConnectionLost",
    "sends": "texts, pings and headers are sent",
    "waits": "without a reader the transport stops reading (backpressure) and loses nothing",
    "leaving": "exiting sends a close frame and does not wait for a stalled peer",
    "cancelled": "a cancelled read loses no message; a cancelled dial leaves no socket open",
    "refusals": "a failed dial reports the reason and whether to retry",
    "network": "the stack's proxy and certificates are used",
    "backends": "it runs on each event loop it declares, and raises BackendUnsupported on others",
}


class ContractViolation(AssertionError):
    """A guarantee does not hold. The text says what was expected, what happened and what to do."""


class NotApplicable(Exception):
    """A guarantee is not checked, for the given reason.

    `here` tells that the reason is this machine: a package or a capture is missing.
    """

    def __init__(self, reason: str, *, here: bool = False) -> None:
        super().__init__(reason)
        self.here = here


@frozen(kw_only=True)
class Capture:
    """A recording of the venue's frames: ``<name>.ws.jsonl`` in the folder of captures.

    `garbage` lists texts that occur in frames known to be unreadable.
    """

    symbols: Sequence[str]
    channels: Sequence[str]
    market: str = ""
    settings: Mapping[str, Any] = field(factory=dict)
    garbage: Sequence[str] = ()
