"""Hyperliquid's subscribe and unsubscribe messages, and the replies to them.

There is one subscription per message, and there are no message ids. A reply repeats the
subscription, with fields that the venue adds; so does the text of most errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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

    from .symbols import Names

__all__ = ["AckMessage", "HyperliquidCodec", "SubscriptionMessage"]

#: Start of the text that the venue sends when a connection opens. It is not JSON.
_GREETING = b"Websocket connection established"
#: The channels that the parser reads. It passes a frame of one of them on if it cannot be decoded.
_PARSED = frozenset(("trades", "l2Book", "bbo", "candle", "activeAssetCtx", "activeSpotAssetCtx"))


#: {"type":"l2Book","coin":"BTC","nSigFigs":null,"mantissa":null,"fast":true}
class SubscriptionMessage(msgspec.Struct, gc=False):
    """A subscription, as the venue repeats it."""

    type: str = ""
    coin: str = ""
    interval: str | None = None
    fast: bool | None = None


#: {"method":"subscribe","subscription":{"type":"trades","coin":"BTC"}}
class AckMessage(msgspec.Struct, gc=False):
    """An acknowledgement: it repeats the message that it acknowledges."""

    method: str = ""
    subscription: SubscriptionMessage = msgspec.field(default_factory=SubscriptionMessage)


#: {"channel":"error","data":"Already subscribed: {\"type\":\"trades\",\"coin\":\"BTC\"}"}
class _Frame(msgspec.Struct):
    channel: str
    data: msgspec.Raw = msgspec.Raw()


_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_ack = msgspec.json.Decoder(AckMessage).decode
_decode_subscription = msgspec.json.Decoder(SubscriptionMessage).decode
_decode_text = msgspec.json.Decoder(str).decode
_DecodeErrors = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class HyperliquidCodec:
    """Encodes subscribe and unsubscribe messages, and decodes the replies."""

    def __init__(self, feed: Feed, names: Names) -> None:
        self._names = names
        self._listing = feed.listing

    def native(self, symbol: str) -> str:
        """Return the venue's name for a unified symbol, as far as it follows from rules.

        Raises SymbolError where this market can have no such symbol.
        """
        return self._names.native(symbol)

    def encode_subscribe(
        self, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        """Return the subscribe messages, one per subscription."""
        return self._encode("subscribe", subscriptions, first_id)

    def encode_unsubscribe(
        self, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        """Return the unsubscribe messages, one per subscription."""
        return self._encode("unsubscribe", subscriptions, first_id)

    def _encode(
        self, method: str, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        messages = []
        for message_id, subscription in enumerate(subscriptions, first_id):
            symbol, channel = subscription.symbol, subscription.channel
            native = self._listing.native.get(symbol) or self._names.native(symbol)
            fields = self._names.subscription(native, channel)
            text = msgspec.json.encode({"method": method, "subscription": fields}).decode()
            messages.append(Message(text, (subscription,), message_id))
        return messages

    def decode_reply(self, frame: bytes) -> Reply | None:
        """Decode an acknowledgement, an error, a pong or the greeting.

        A message of another channel than those that the parser reads is `Unrequested`. None for a
        frame that cannot be decoded.
        """
        if frame.startswith(_GREETING):
            return Notice("greeting", frame[:100].decode(errors="replace"))
        try:
            reply = _decode_frame(frame)
            match reply.channel:
                case "pong":
                    return Pong()
                case "subscriptionResponse":
                    ack = _decode_ack(reply.data)
                    return Ack(subscriptions=self._subscriptions(ack.subscription))
                case "error":
                    return self._error(_decode_text(reply.data))
                case channel if channel not in _PARSED:
                    return Unrequested(channel)
        except _DecodeErrors:
            pass
        return None

    def _subscriptions(self, message: SubscriptionMessage) -> tuple[Subscription, ...]:
        """Return the subscription of this feed that *message* names; empty if it has none such."""
        parameters = message.interval, message.fast
        return self._names.subscribed(self._listing.unified, message.type, message.coin, parameters)

    def _error(self, text: str) -> Reply:
        """Return the reply for an error text, by its first words.

        The texts are taken from recorded frames; the venue does not document them.
        """
        quoted = text[text.find("{") :] if "{" in text else ""
        subscriptions = self._subscriptions(_quoted_subscription(quoted))
        if text.startswith(("Already subscribed", "Already unsubscribed")):
            return Ack(subscriptions=subscriptions)
        if text.startswith(("Invalid subscription", "Error parsing JSON")):
            return Refusal(text, subscriptions=subscriptions, oldest_pending=not subscriptions)
        # Most likely a limit. Limits count for the IP address, so a later attempt may succeed.
        return Refusal(
            text, subscriptions=subscriptions, permanent=False, oldest_pending=not subscriptions
        )


def _quoted_subscription(text: str) -> SubscriptionMessage:
    """Return the subscription that an error quotes, by itself or within the whole message."""
    try:
        subscription = _decode_subscription(text)
        return subscription if subscription.type else _decode_ack(text).subscription
    except _DecodeErrors:
        return SubscriptionMessage()
