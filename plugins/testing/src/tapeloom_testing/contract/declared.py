"""The guarantees of the contracts, their exceptions, and the description of a capture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import field, frozen

__all__ = ["SINK", "STAGE", "TRANSPORT", "VENUE", "Capture", "ContractViolation", "NotApplicable"]

#: The guarantees of a venue: key in conformance files → claim.
VENUE: dict[str, str] = {
    "symbols": "symbols are spelled there and back; one that cannot be is refused",
    "acknowledge": "every subscription is asked for, and its acknowledgement understood",
    "refuse": "a refusal is understood, and names what was refused",
    "silence": "a message without an answer is told, and asked again on a new connection",
    "unsubscribe": "what is dropped is not sent any longer",
    "events": "every channel gives events of its type, with venue, symbol, channel and recv",
    "batches": "frames cut into batches in any way give the same events",
    "poison": "garbage between good frames costs none of them and is accounted for",
    "unknown": "messages of an unknown kind or symbol are counted, and become no event",
    "exact": "numbers are kept as the venue wrote them",
    "times": "times are UTC in ns, and the venue's own",
    "sides": "`side` is the taker's",
    "limits": "the venue's limits are declared, and kept",
    "heartbeat": "the heartbeat is what the venue expects, and its answer is understood",
    "farewell": "a planned end is understood, and nothing is lost over it in silence",
    "book": "snapshot and updates give the venue's book",
    "history": "REST answers what it is said to answer",
    "truth": "what is delivered is what the venue sent: once each, in order",
    "backends": "it runs on each event loop it names, and is refused on the others",
    "deterministic": "the same frames give the same events",
    "captures": "every recorded frame is understood",
    "secrets": "keys are in no repr, event or log line",
}
#: The guarantees of a stage: key → claim.
STAGE: dict[str, str] = {
    "batches": "events cut into batches in any way give the same output",
    "passes": "what it does not understand is passed on, in place",
    "unchanged": "its input is not changed",
    "hostile": "NaN and infinity raise nothing",
    "accounted": "what goes in comes out, or stands in a Reject",
    "timed": "a stage that acts on time keeps the rules of one",
    "deterministic": "the same events give the same output",
}
#: The guarantees of a sink: key → claim.
SINK: dict[str, str] = {
    "once": "everything written arrives, once, in order",
    "flushed": "closing writes what is left",
    "failure": "a write that fails is told",
    "backends": "it runs on each event loop it names",
}
#: The guarantees of a transport: key → claim.
TRANSPORT: dict[str, str] = {
    "order": "every message arrives once, in order, however its bytes were cut",
    "together": "what one read brings is handed over together",
    "pieces": "a message in fragments is put together; one over the limit ends the connection",
    "control": "pings are answered, and control frames told, also beside messages",
    "farewell": "what came before a close frame is handed over before its code and reason are told",
    "broken": "who breaks the protocol is closed on, after what came before",
    "torn": "an end without a close frame is told",
    "sends": "texts, pings and headers go out",
    "waits": "what nobody takes is not read, and then nothing of it is lost",
    "leaving": "leaving sends a close frame, and no peer holds it up",
    "cancelled": "a reader that is cancelled loses nothing; a dial that is leaves nothing open",
    "refusals": "a connection that does not come about says why, and whether to try again",
    "network": "proxy and certificates are the stack's",
    "backends": "it runs on each event loop it names, and is refused on the others",
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
