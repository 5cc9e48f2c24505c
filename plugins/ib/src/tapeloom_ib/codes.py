"""What the gateway's message codes ask of a client: the TWS API's "Message Codes"."""

from __future__ import annotations

import re

__all__ = [
    "AGAIN",
    "BUST",
    "BUSY",
    "DELAYED",
    "FARM_BACK",
    "FARM_LOST",
    "HALTED",
    "LATER",
    "LOST",
    "MOVED",
    "QUIET",
    "RESET",
    "RESTORED",
    "RESTORED_EMPTY",
    "TOO_FAST",
    "masked",
]

TOO_FAST = 100  #: more messages than the account may send
HALTED, RESET = 316, 317  #: market depth was halted, or begins anew
BUSY = 326  #: the client id is taken
LOST = frozenset({1100, 2110})  #: the gateway has lost its servers
RESTORED_EMPTY = 1101  #: it has them back, and has forgotten the subscriptions
RESTORED = 1102  #: it has them back, and the subscriptions too
MOVED = 1300  #: the gateway listens on another port
FARM_LOST = frozenset({2103, 2105, 2157})
FARM_BACK = frozenset({2104, 2106, 2158})
DELAYED = frozenset({10167, 10090})  #: not subscribed; delayed data is sent
BUST = 10225  #: bars have ended and must be asked for again
#: Too much is asked for, or somebody else is using the account: worth another try, in a while.
LATER = frozenset({101, 309, 10182, 10190, 10197})
#: On the way, inactive, or about a request that we have given up ourselves.
QUIET = frozenset({300, 310, 366, 2107, 2108, 2119, 2152})
#: The words of passing refusals whose code stands for others too (162, 322, 420).
AGAIN = re.compile(r"pacing|another|different IP", re.IGNORECASE)

_ACCOUNT = re.compile(r"\b(?:D?[UF]|D?I)\d{4,}\b")


def masked(text: str) -> str:
    """Return *text* without account numbers."""
    return _ACCOUNT.sub("(account)", text)
