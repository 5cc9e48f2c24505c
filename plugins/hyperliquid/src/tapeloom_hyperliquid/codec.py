"""Hyperliquid's subscription language: one subscription a message, and no ids.

An answer repeats the subscription, with fields that the venue adds; so does the text of an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from tapeloom.plugin import Ack, Feed, Message, Notice, Pong, Refusal, Reply, Subscription

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .symbols import Names

__all__ = ["About", "Answer", "HyperliquidCodec"]

_GREETING = b"Websocket connection established"


class About(msgspec.Struct, gc=False):
    """A subscription, as the venue repeats it."""

    type: str = ""
    coin: str = ""
    interval: str | None = None
    fast: bool | None = None


class Answer(msgspec.Struct, gc=False):
    """What is said to a message: it is repeated."""

    method: str = ""
    subscription: About = msgspec.field(default_factory=About)


class _Frame(msgspec.Struct):
    channel: str
    data: msgspec.Raw = msgspec.Raw()


_frame = msgspec.json.Decoder(_Frame).decode
_answer = msgspec.json.Decoder(Answer).decode
_about = msgspec.json.Decoder(About).decode
_text = msgspec.json.Decoder(str).decode
_Unreadable = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class HyperliquidCodec:
    """subscribe and unsubscribe, and what is said in return."""

    def __init__(self, feed: Feed, names: Names) -> None:
        self._names = names
        self._listing = feed.listing

    def native(self, symbol: str) -> str:
        """Return the venue's name for a unified symbol, as far as a rule can tell.

        Raises SymbolError where this market can have no such symbol.
        """
        return self._names.native(symbol)

    def encode_subscribe(
        self, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        """Return the messages that start these, one for each."""
        return self._ask("subscribe", subscriptions, first_id)

    def encode_unsubscribe(
        self, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        """Return the messages that end these, one for each."""
        return self._ask("unsubscribe", subscriptions, first_id)

    def _ask(self, method: str, some: Sequence[Subscription], first: int) -> list[Message]:
        messages = []
        for number, one in enumerate(some, first):
            native = self._listing.native.get(one.symbol) or self._names.native(one.symbol)
            about = self._names.subscription(native, one.channel)
            text = msgspec.json.encode({"method": method, "subscription": about}).decode()
            messages.append(Message(text, (one,), number))
        return messages

    def decode_reply(self, frame: bytes) -> Reply | None:
        """Read an answer, an error, a pong or the greeting; None where it is none of these."""
        if frame.startswith(_GREETING):
            return Notice("greeting", frame[:100].decode(errors="replace"))
        try:
            said = _frame(frame)
            match said.channel:
                case "pong":
                    return Pong()
                case "subscriptionResponse":
                    return Ack(subscriptions=self._meant(_answer(said.data).subscription))
                case "error":
                    return self._error(_text(said.data))
        except _Unreadable:
            pass
        return None

    def _meant(self, about: About) -> tuple[Subscription, ...]:
        more = about.interval, about.fast
        return self._names.subscribed(self._listing.unified, about.type, about.coin, more)

    def _error(self, text: str) -> Reply:
        """Read an error by its first words; they are known from the wire, and nowhere documented."""
        told = text[text.find("{") :] if "{" in text else ""
        subscriptions = self._meant(_quoted(told))
        if text.startswith(("Already subscribed", "Already unsubscribed")):
            return Ack(subscriptions=subscriptions)
        if text.startswith(("Invalid subscription", "Error parsing JSON")):
            return Refusal(text, subscriptions=subscriptions, oldest_pending=not subscriptions)
        # A limit, most likely: it is met by the address, and room may come.
        return Refusal(
            text, subscriptions=subscriptions, permanent=False, oldest_pending=not subscriptions
        )


def _quoted(text: str) -> About:
    """Return the subscription that an error quotes, alone or in the whole message."""
    try:
        about = _about(text)
        return about if about.type else _answer(text).subscription
    except _Unreadable:
        return About()
