"""The gateway's message codes by what a client has to do: the TWS API's "Message Codes"."""

from __future__ import annotations

import re

__all__ = [
    "BARS_ENDED",
    "CLIENT_ID_TAKEN",
    "CONNECTION_LOST",
    "DELAYED",
    "DEPTH_HALTED",
    "DEPTH_RESET",
    "FARM_LOST",
    "FARM_RESTORED",
    "IGNORED",
    "PORT_CHANGED",
    "RATE_EXCEEDED",
    "RESTORED",
    "RESTORED_WITHOUT_DATA",
    "RETRYABLE",
    "RETRYABLE_TEXT",
    "masked",
]

RATE_EXCEEDED = 100  #: the client sends more messages than the account may
DEPTH_HALTED = 316  #: market depth has ended
DEPTH_RESET = 317  #: the rows of a market depth are to be cleared, new ones follow
CLIENT_ID_TAKEN = 326  #: another client of this gateway has the same id
CONNECTION_LOST = frozenset({1100, 2110})  #: the gateway has lost its servers
RESTORED_WITHOUT_DATA = 1101  #: it is connected again, but the subscriptions are gone
RESTORED = 1102  #: it is connected again, and the subscriptions continue
PORT_CHANGED = 1300  #: the gateway listens on another port
FARM_LOST = frozenset({2103, 2105, 2157})  #: a data farm, one of the venue's servers, is lost
FARM_RESTORED = frozenset({2104, 2106, 2158})  #: a data farm is connected
DELAYED = frozenset({10167, 10090})  #: the account has no live data; delayed data is sent
BARS_ENDED = 10225  #: bars have ended and must be requested again
#: A limit of the account, or another session that uses it: a later attempt may succeed.
RETRYABLE = frozenset({101, 309, 10182, 10190, 10197})
#: A connection attempt, an inactive farm, or a request that was cancelled by us.
IGNORED = frozenset({300, 310, 366, 2107, 2108, 2119, 2152})
#: Text of retryable refusals whose codes (162, 322, 420) are used for permanent ones too.
RETRYABLE_TEXT = re.compile(r"pacing|another|different IP", re.IGNORECASE)

#: An account number, such as U1234567 or DU1234567.
_ACCOUNT = re.compile(r"\b(?:D?[UF]|D?I)\d{4,}\b")


def masked(text: str) -> str:
    """Return *text* with account numbers replaced by ``(account)``."""
    return _ACCOUNT.sub("(account)", text)
