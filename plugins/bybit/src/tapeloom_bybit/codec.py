"""Encodes Bybit's subscription requests and decodes the replies to them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import msgspec
from tapeloom.plugin import (
    Ack,
    Feed,
    Message,
    Notice,
    Pong,
    Refusal,
    Reply,
    Subscription,
    Unrequested,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .names import Names

__all__ = ["TEMPORARY_CODES", "BybitCodec"]

#: Topics in one request: the limit of spot. For linear no limit is documented.
_BATCH_SIZE = 10
#: Codes of a venue that is overloaded, throttling or failing: a retry may succeed.
TEMPORARY_CODES = frozenset({10000, 10006, 10016, 10018})
#: Texts of refusals without a code that mean the same as these codes.
_TEMPORARY_TEXT = re.compile(
    r"too many visits|too frequent|timeout|time out|server error", re.IGNORECASE
)
#: What `op` is in a reply to a request, which then has `success`; empty in market data.
_REPLIED = frozenset(("", "subscribe", "unsubscribe"))
#: A topic in the text of a refusal.
_TOPIC = re.compile(r"(?:publicTrade|orderbook|kline|tickers)\.[\w.-]+")


#: {"success":true,"ret_msg":"subscribe","conn_id":"d967ikkn0ine3iqmjc30-koqj","req_id":"sub1",
#: "op":"subscribe"}
class _ControlMessage(msgspec.Struct, rename={"code": "retCode"}):
    """A reply to a request, or a pong."""

    success: bool | None = None
    ret_msg: str = ""
    req_id: Annotated[str, msgspec.Meta(max_length=64)] | int = (
        ""  # `int` refuses thousands of digits
    )
    op: str = ""
    code: int = 0


_decode = msgspec.json.Decoder(_ControlMessage).decode


class BybitCodec:
    """Encodes requests of up to ten topics, and decodes the replies.

    The refusal of a request with several topics names at most one topic, and the documentation does
    not say whether the venue accepted the others. The codec therefore remembers the named topic and
    requests it separately the next time. Only the refusal of a separate request is permanent.
    """

    def __init__(self, feed: Feed, names: Names) -> None:
        self._names = names
        self._listed = feed.listing.native
        self._separate_topics: set[str] = set()  # topics to request separately
        self._all_separate = False  # request every topic separately: a refusal named no topic

    def native(self, symbol: str) -> str:
        """Return the venue's name for a unified symbol.

        Raises SymbolError if this market cannot list such a symbol.
        """
        return self._names.native(symbol)

    def encode_subscribe(
        self, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        """Return the messages that subscribe to *subscriptions*."""
        return self._encode("subscribe", subscriptions, first_id)

    def encode_unsubscribe(
        self, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        """Return the messages that unsubscribe from *subscriptions*."""
        return self._encode("unsubscribe", subscriptions, first_id)

    def _encode(
        self, op: str, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        topics = {subscription: self._topic(subscription) for subscription in subscriptions}
        separate = [
            subscription
            for subscription, topic in topics.items()
            if self._all_separate or topic in self._separate_topics
        ]
        together = [subscription for subscription in topics if subscription not in set(separate)]
        starts = range(0, len(together), _BATCH_SIZE)
        batches = [together[start : start + _BATCH_SIZE] for start in starts]
        batches += [[subscription] for subscription in separate]
        messages = []
        for request_id, batch in enumerate(batches, first_id):
            args = [topics[subscription] for subscription in batch]
            # The reply repeats `req_id`, and with it the number of topics.
            request = {"req_id": f"{request_id}-{len(args)}", "op": op, "args": args}
            text = msgspec.json.encode(request).decode()
            messages.append(Message(text, tuple(batch), request_id))
        return messages

    def _topic(self, subscription: Subscription) -> str:
        symbol = subscription.symbol
        native = self._listed.get(symbol) or self._names.native(symbol)
        return f"{self._names.topic_prefix(subscription.channel)}.{native}"

    def decode_reply(self, frame: bytes) -> Reply | None:
        """Return the reply in *frame*; None if it cannot be decoded or is market data.

        A message with an `op` that is no reply to a request is `Unrequested`.
        """
        try:
            message = _decode(frame)
        except (ValueError, RecursionError):
            return None
        if message.ret_msg == "pong" or message.op == "pong":
            return Pong()
        if message.success is None and not message.code:
            return None if message.op in _REPLIED else Unrequested(message.op)
        number, _, topic_count = str(message.req_id).partition("-")
        request_id = int(number) if number.isdecimal() else None
        if not message.success:
            return self._refusal(message, request_id, topic_count)
        if request_id is None:
            return Notice(message.op, "was acknowledged without the id of a request")
        return Ack(request_id)

    def _refusal(self, message: _ControlMessage, request_id: int | None, topic_count: str) -> Reply:
        reason = message.ret_msg or f"code {message.code}"
        match = _TOPIC.search(reason)
        topic = match[0] if match else ""
        was_separate = (
            topic_count == "1"
            or topic in self._separate_topics
            or (self._all_separate and not topic)
        )
        is_temporary = message.code in TEMPORARY_CODES or bool(_TEMPORARY_TEXT.search(reason))
        if "already subscribed" in reason and was_separate and request_id is not None:
            return Ack(request_id)
        if not was_separate and not is_temporary:
            if topic:
                self._separate_topics.add(topic)
            else:
                self._all_separate = True
        permanent = was_separate and not is_temporary
        return Refusal(reason, request_id, permanent=permanent, oldest_pending=request_id is None)
