"""Encodes Binance's subscription requests and decodes the replies to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from tapeloom.plugin import Ack, Feed, Message, Notice, Refusal, Reply, Subscription, Unrequested

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .symbols import Names

__all__ = ["BinanceCodec"]

#: Streams in one request: it stays below 4 kB of text.
_BATCH_SIZE = 100
#: Error codes of a venue that is overloaded, throttling or restarting: a retry may succeed.
_TEMPORARY_CODES = frozenset({-1000, -1001, -1003, -1006, -1007, -1008, -1015, -1016, -1034})


#: {"error":{"code":3,"msg":"Invalid JSON: expected value at line 1 column 1"},"id":null}
class _ControlMessage(msgspec.Struct):
    """A reply or a notice. An error is flat on spot and nested on futures.

    A notice is nested in `data` on a combined stream.
    """

    id: int | str | None = None
    result: Any = msgspec.UNSET
    code: int | None = None
    msg: str = ""
    e: str = ""
    error: _ControlMessage | None = None
    data: _ControlMessage | None = None


#: {"stream":"tradingSession","data":{"e":"EquityUpdate","E":1791285203779,"t":1791273600000,
#: "T":1791293400000,"S":"PRE_MARKET"}}
class _StreamMessage(msgspec.Struct):
    """A message of a combined stream. The streams of a symbol have an ``@`` in their name."""

    stream: str
    data: dict[str, Any] | list[Any]


_decode = msgspec.json.Decoder(_ControlMessage).decode
_decode_stream = msgspec.json.Decoder(_StreamMessage).decode


class BinanceCodec:
    """SUBSCRIBE and UNSUBSCRIBE requests on a combined stream, and the replies to them."""

    def __init__(self, feed: Feed, names: Names) -> None:
        self._names = names
        self._listed = feed.listing.native

    def native(self, symbol: str) -> str:
        """Return the venue's name for a unified symbol.

        Raises SymbolError if this market cannot list such a symbol.
        """
        return self._names.native(symbol)

    def encode_subscribe(
        self, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        """Return the messages that subscribe to *subscriptions*, 100 streams a message."""
        return self._encode("SUBSCRIBE", subscriptions, first_id)

    def encode_unsubscribe(
        self, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        """Return the messages that unsubscribe from *subscriptions*, 100 streams a message."""
        return self._encode("UNSUBSCRIBE", subscriptions, first_id)

    def _encode(
        self, method: str, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        messages = []
        for request_id, start in enumerate(range(0, len(subscriptions), _BATCH_SIZE), first_id):
            batch = tuple(subscriptions[start : start + _BATCH_SIZE])
            streams = [self._stream_name(subscription) for subscription in batch]
            text = msgspec.json.encode({"method": method, "params": streams, "id": request_id})
            messages.append(Message(text.decode(), batch, request_id))
        return messages

    def _stream_name(self, subscription: Subscription) -> str:
        native = self._listed.get(subscription.symbol) or self.native(subscription.symbol)
        return self._names.stream_name(native, subscription.channel)

    def decode_reply(self, frame: bytes) -> Reply | None:
        """Return the reply or notice in *frame*; None if it cannot be decoded or is market data.

        A message of a stream of no symbol, such as ``!contractInfo``, is `Unrequested`.
        """
        try:
            message = _decode(frame)
        except (ValueError, RecursionError):
            return _unrequested(frame)
        error = message.error or message
        if error.code is not None:
            reason = f"{error.msg or 'refused'} (code {error.code})"
            return Refusal(reason, message.id, permanent=error.code not in _TEMPORARY_CODES)
        if message.result is None and message.id is not None:
            return Ack(message.id)
        if message.result is not msgspec.UNSET:
            return Notice("answer", f"{message.result} to message {message.id}")
        event = (message.data or message).e
        if event == "serverShutdown":
            return Notice(event, closes_connection=True)
        return _unrequested(frame)


def _unrequested(frame: bytes) -> Reply | None:
    """Return `Unrequested` for a message of a stream of no symbol; None for any other frame."""
    try:
        stream = _decode_stream(frame).stream
    except (ValueError, RecursionError):
        return None
    return None if "@" in stream else Unrequested(stream)
