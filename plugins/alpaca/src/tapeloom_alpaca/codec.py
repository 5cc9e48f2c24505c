"""Alpaca's login and subscribe messages, and the replies to them.

A message has lists of symbols per channel. A reply names no message; one to a subscription has the
whole set of subscriptions.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec
from tapeloom.plugin import Ack, Feed, Message, Notice, Refusal, Reply, Subscription, Unrequested

from .names import LOGIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .names import Names

__all__ = ["AlpacaCodec"]

#: Subscriptions per message. The venue documents no limit; this is some tens of kB of text.
_BATCH = 2_000
#: What a user can do about an error that does not pass by itself, by the venue's code.
_PERMANENT = {
    400: "Check the symbols.",
    401: "Set key_id and secret_key under [venue.alpaca].",
    402: "Check key_id and secret_key.",
    405: "Subscribe to fewer symbols, or use a larger plan.",
    408: 'This account has no access to the stream: set mode = "poll".',
    409: 'The plan does not include this feed: set feed = "iex", or mode = "poll".',
    410: "This feed has no such channel.",
    411: "The keys do not allow market data.",
}
#: Errors after which the venue closes the connection.
_CLOSING = {407: "slow_client", 500: "internal_error"}
#: Code of "already authenticated", which is harmless.
_ALREADY_AUTHENTICATED = 403
#: Code of "connection limit exceeded": another session has the account's only connection.
_CONNECTION_LIMIT = 406
#: The types of the items that the parser reads. It passes one on if it cannot be decoded.
_PARSED = frozenset("tqbudocxsli")


#: {"T":"subscription","trades":["AAPL"],"quotes":["AMD","CLDR"],"bars":["*"],"updatedBars":[],
#: "dailyBars":["VOO"],"statuses":["*"],"lulds":[],"corrections":["AAPL"],"cancelErrors":["AAPL"]}
class _ReplyMessage(msgspec.Struct):
    """A control message: `T` is "success", "error" or "subscription"."""

    T: str
    msg: str = ""
    code: int = 0
    trades: list[str] | None = None
    quotes: list[str] | None = None
    bars: list[str] | None = None
    dailyBars: list[str] | None = None  # noqa: N815 the venue's spelling
    orderbooks: list[str] | None = None
    statuses: list[str] | None = None
    lulds: list[str] | None = None


#: {"T":"n","id":24843171,"headline":"Apple Leader in Phone Sales in China",
#: "symbols":["AAPL"],"created_at":"2022-01-05T22:00:37Z"}
class _AnyMessage(msgspec.Struct):
    """A message of any type, such as "n" for news."""

    T: str


_decode = msgspec.json.Decoder(list[_ReplyMessage]).decode
_decode_any = msgspec.json.Decoder(list[_AnyMessage]).decode


class AlpacaCodec:
    """Encodes subscribe and unsubscribe messages, and decodes the replies."""

    def __init__(self, feed: Feed, names: Names) -> None:
        self._names = names
        self._lists = names.market.lists
        self._native, self._unified = feed.listing.native, feed.listing.unified
        self._pause_seconds = names.settings.slot_pause / 1e9

    def native(self, symbol: str) -> str:
        """Return the venue's name for a unified symbol.

        Raises SymbolError where this market can have no such symbol.
        """
        return self._names.native(symbol)

    def encode_subscribe(
        self, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        """Return the subscribe messages. Their ids are local: the venue repeats none."""
        return [
            Message(self._text("subscribe", batch), tuple(batch), message_id)
            for message_id, batch in enumerate(_batches(subscriptions), first_id)
        ]

    def encode_unsubscribe(
        self, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        """Return the unsubscribe messages.

        They have no ids, so no reply is awaited: a set without these subscriptions may also have
        been sent before the message.
        """
        return [
            Message(self._text("unsubscribe", batch), tuple(batch))
            for batch in _batches(subscriptions)
        ]

    def _text(self, action: str, subscriptions: Sequence[Subscription]) -> str:
        lists = defaultdict[str, list[str]](list)
        for subscription in subscriptions:
            symbol = subscription.symbol
            native = self._native.get(symbol) or self._names.native(symbol)
            lists[self._lists[subscription.channel]].append(native)
        if "bars" in lists:
            lists["updatedBars"] = lists["bars"]
        return msgspec.json.encode({"action": action, **lists}).decode()

    def decode_reply(self, frame: bytes) -> Reply | None:
        """Decode an array of one control message; None for a frame that cannot be decoded.

        An item of a type that the parser does not read is `Unrequested`.
        """
        try:
            (message,) = _decode(frame)
        except (ValueError, RecursionError):
            return _unrequested(frame)
        if message.T == "success":
            return Ack(LOGIN) if message.msg == "authenticated" else Notice(message.msg)
        if message.T == "subscription":
            return Ack(subscriptions=self._subscriptions(message))
        return self._error(message) if message.T == "error" else _unrequested(frame)

    def _subscriptions(self, message: _ReplyMessage) -> tuple[Subscription, ...]:
        return tuple(
            Subscription(self._unified[native], channel)
            for channel, name in self._lists.items()
            for native in getattr(message, name) or ()
            if native in self._unified
        )

    def _error(self, message: _ReplyMessage) -> Reply:
        code, reason = message.code, f"{message.msg or 'refused'} (code {message.code})"
        if code == _ALREADY_AUTHENTICATED:
            return Notice("already_authenticated", reason)
        if code in _CLOSING:
            return Notice(_CLOSING[code], reason, closes_connection=True)
        if code in _PERMANENT:
            return Refusal(f"{reason}: {_PERMANENT[code]}", oldest_pending=True)
        pause_seconds = self._pause_seconds if code == _CONNECTION_LIMIT else 0.0
        return Refusal(
            reason, oldest_pending=True, permanent=False, retry_after_seconds=pause_seconds
        )


def _unrequested(frame: bytes) -> Reply | None:
    """Return `Unrequested` for one item of a type that the parser does not read, else None."""
    try:
        (message,) = _decode_any(frame)
    except (ValueError, RecursionError):
        return None
    replies = ("success", "error", "subscription")
    return None if message.T in _PARSED or message.T in replies else Unrequested(message.T)


def _batches(subscriptions: Sequence[Subscription]) -> list[Sequence[Subscription]]:
    starts = range(0, len(subscriptions), _BATCH)
    return [subscriptions[start : start + _BATCH] for start in starts]
