"""Bybit's subscription language."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
from tapeloom.plugin import Ack, Feed, Message, Notice, Pong, Refusal, Reply, Subscription

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .names import Names

__all__ = ["PASSING", "BybitCodec"]

#: Spot allows so many topics in a request; for linear no figure is documented.
_BATCH = 10
#: Codes of a venue that is overloaded, throttling or failing: asking again may help.
PASSING = frozenset({10000, 10006, 10016, 10018})
_BUSY = re.compile(r"too many visits|too frequent|timeout|time out|server error", re.IGNORECASE)
_TOPIC = re.compile(r"(?:publicTrade|orderbook|kline|tickers)\.[\w.-]+")


class _Answer(msgspec.Struct, rename={"code": "retCode"}):
    success: bool | None = None
    ret_msg: str = ""
    req_id: str | int = ""
    op: str = ""
    code: int = 0


_decode = msgspec.json.Decoder(_Answer).decode


class BybitCodec:
    """Requests of ten topics, and what is said in return.

    A refusal of several topics names at most one, and whether the others were accepted is not
    documented. So the one is remembered and asked for alone the next time, and only what is refused
    alone is refused for good.
    """

    def __init__(self, feed: Feed, names: Names) -> None:
        self._names = names
        self._listed = feed.listing.native
        self._alone: set[str] = set()  # topics that were refused in company
        self._each = False  # a refusal in company named none

    def native(self, symbol: str) -> str:
        """Return the venue's name for a unified symbol.

        Raises SymbolError where this market can have no such symbol.
        """
        return self._names.native(symbol)

    def encode_subscribe(
        self, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        """Return the messages that start these."""
        return self._ask("subscribe", subscriptions, first_id)

    def encode_unsubscribe(
        self, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        """Return the messages that end these."""
        return self._ask("unsubscribe", subscriptions, first_id)

    def _ask(self, op: str, some: Sequence[Subscription], first: int) -> list[Message]:
        topics = {one: self._topic(one) for one in some}
        alone = [one for one, topic in topics.items() if self._each or topic in self._alone]
        crowd = [one for one in topics if one not in set(alone)]
        parts = [crowd[start : start + _BATCH] for start in range(0, len(crowd), _BATCH)]
        messages = []
        for number, part in enumerate([*parts, *([one] for one in alone)], first):
            args = [topics[one] for one in part]
            # The answer repeats the number, and with it how many topics it is about.
            text = msgspec.json.encode({"req_id": f"{number}-{len(args)}", "op": op, "args": args})
            messages.append(Message(text.decode(), tuple(part), number))
        return messages

    def _topic(self, one: Subscription) -> str:
        listed = self._listed.get(one.symbol) or self._names.native(one.symbol)
        return f"{self._names.head(one.channel)}.{listed}"

    def decode_reply(self, frame: bytes) -> Reply | None:
        """Read an answer; None where it is none."""
        try:
            answer = _decode(frame)
        except (ValueError, RecursionError):
            return None
        if answer.ret_msg == "pong" or answer.op == "pong":
            return Pong()
        if answer.success is None and not answer.code:
            return None
        number, _, size = str(answer.req_id).partition("-")
        asked = int(number) if number.isdecimal() else None
        if not answer.success:
            return self._refusal(answer, asked, size)
        return Notice(answer.op, "was agreed to unasked") if asked is None else Ack(asked)

    def _refusal(self, answer: _Answer, asked: int | None, size: str) -> Reply:
        reason = answer.ret_msg or f"code {answer.code}"
        found = _TOPIC.search(reason)
        topic = found[0] if found else ""
        alone = size == "1" or topic in self._alone or (self._each and not topic)
        passing = answer.code in PASSING or bool(_BUSY.search(reason))
        if "already subscribed" in reason and alone and asked is not None:
            return Ack(asked)
        if not alone and not passing:
            self._alone.add(topic) if topic else setattr(self, "_each", True)
        permanent = alone and not passing
        return Refusal(reason, asked, permanent=permanent, oldest_pending=asked is None)
