"""Binance's subscription language."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from tapeloom.plugin import Ack, Feed, Message, Notice, Refusal, Reply, Subscription

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .symbols import Names

__all__ = ["BinanceCodec"]

#: Streams in one message: a few kB of text.
_BATCH = 100
#: Error codes of a venue that is overloaded, throttling or restarting: asking again may help.
_PASSING = frozenset({-1000, -1001, -1003, -1006, -1007, -1008, -1015, -1016, -1034})


class _Answer(msgspec.Struct):
    """What is said in return; an error comes flat or nested, a notice with or without `data`."""

    id: int | str | None = None
    result: Any = msgspec.UNSET
    code: int | None = None
    msg: str = ""
    e: str = ""
    error: _Answer | None = None
    data: _Answer | None = None


_decode = msgspec.json.Decoder(_Answer).decode


class BinanceCodec:
    """SUBSCRIBE and UNSUBSCRIBE on a combined stream, and what is said in return."""

    def __init__(self, feed: Feed, names: Names) -> None:
        self._names = names
        self._listed = feed.listing.native

    def native(self, symbol: str) -> str:
        """Return the venue's name for a unified symbol.

        Raises SymbolError where this market can have no such symbol.
        """
        return self._names.native(symbol)

    def encode_subscribe(
        self, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        """Return the messages that start these, 100 streams a message."""
        return self._ask("SUBSCRIBE", subscriptions, first_id)

    def encode_unsubscribe(
        self, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        """Return the messages that end these."""
        return self._ask("UNSUBSCRIBE", subscriptions, first_id)

    def _ask(self, method: str, some: Sequence[Subscription], first: int) -> list[Message]:
        messages = []
        for number, start in enumerate(range(0, len(some), _BATCH), first):
            part = tuple(some[start : start + _BATCH])
            streams = [
                self._names.stream(
                    self._listed.get(one.symbol) or self.native(one.symbol), one.channel
                )
                for one in part
            ]
            text = msgspec.json.encode({"method": method, "params": streams, "id": number})
            messages.append(Message(text.decode(), part, number))
        return messages

    def decode_reply(self, frame: bytes) -> Reply | None:
        """Read an answer or a notice; None where it is neither."""
        try:
            answer = _decode(frame)
        except (ValueError, RecursionError):
            return None
        error = answer.error or answer
        if error.code is not None:
            reason = f"{error.msg or 'refused'} (code {error.code})"
            return Refusal(reason, answer.id, permanent=error.code not in _PASSING)
        if answer.result is None and answer.id is not None:
            return Ack(answer.id)
        if answer.result is not msgspec.UNSET:
            return Notice("answer", f"{answer.result} to message {answer.id}")
        event = (answer.data or answer).e
        return Notice(event, closes_connection=True) if event == "serverShutdown" else None
