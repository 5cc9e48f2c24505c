"""Alpaca's subscription language: a login, lists of symbols, and replies with the whole set."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec
from tapeloom.plugin import Ack, Feed, Message, Notice, Refusal, Reply, Subscription

from .names import LOGIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .names import Names

__all__ = ["AlpacaCodec"]

#: Subscriptions in one message: the venue names no limit, and this is some tens of kB of text.
_BATCH = 2_000
#: What to do about an error that does not pass by itself.
_PERMANENT = {
    400: "Check the symbols.",
    401: "Set key_id and secret_key under [venue.alpaca].",
    402: "Check key_id and secret_key.",
    405: "Ask for fewer symbols, or for a larger plan.",
    408: 'This account has no access to the stream: set mode = "poll".',
    409: 'The plan does not include this feed: set feed = "iex", or mode = "poll".',
    410: "This feed has no such channel.",
    411: "The keys do not allow market data.",
}
_ENDING = {407: "slow_client", 500: "internal_error"}
_HARMLESS = 403  # already authenticated
_TAKEN = 406  # another session has the one connection


class _Said(msgspec.Struct):
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


_decode = msgspec.json.Decoder(list[_Said]).decode


class AlpacaCodec:
    """subscribe and unsubscribe, and what is said in return.

    No reply names what it answers: those to a subscription hold the whole set as it is now.
    """

    def __init__(self, feed: Feed, names: Names) -> None:
        self._names = names
        self._lists = names.market.lists
        self._native, self._unified = feed.listing.native, feed.listing.unified
        self._pause = names.settings.slot_pause / 1e9

    def native(self, symbol: str) -> str:
        """Return the venue's name for a unified symbol.

        Raises SymbolError where this market can have no such symbol.
        """
        return self._names.native(symbol)

    def encode_subscribe(
        self, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        """Return the messages that start these. The number is ours: the venue repeats none."""
        return [
            Message(self._text("subscribe", part), tuple(part), number)
            for number, part in enumerate(_parts(subscriptions), first_id)
        ]

    def encode_unsubscribe(
        self, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        """Return the messages that end these.

        No answer is waited for: a set that lacks them cannot be told from one sent before.
        """
        return [
            Message(self._text("unsubscribe", part), tuple(part)) for part in _parts(subscriptions)
        ]

    def _text(self, action: str, some: Sequence[Subscription]) -> str:
        lists = defaultdict[str, list[str]](list)
        for one in some:
            native = self._native.get(one.symbol) or self._names.native(one.symbol)
            lists[self._lists[one.channel]].append(native)
        if "bars" in lists:
            lists["updatedBars"] = lists["bars"]
        return msgspec.json.encode({"action": action, **lists}).decode()

    def decode_reply(self, frame: bytes) -> Reply | None:
        """Read an array with one control message; None where it is something else."""
        try:
            (said,) = _decode(frame)
        except (ValueError, RecursionError):
            return None
        if said.T == "success":
            return Ack(LOGIN) if said.msg == "authenticated" else Notice(said.msg)
        if said.T == "subscription":
            return Ack(subscriptions=self._set(said))
        return self._error(said) if said.T == "error" else None

    def _set(self, said: _Said) -> tuple[Subscription, ...]:
        return tuple(
            Subscription(self._unified[native], channel)
            for channel, name in self._lists.items()
            for native in getattr(said, name) or ()
            if native in self._unified
        )

    def _error(self, said: _Said) -> Reply:
        code, reason = said.code, f"{said.msg or 'refused'} (code {said.code})"
        if code == _HARMLESS:
            return Notice("already_authenticated", reason)
        if code in _ENDING:
            return Notice(_ENDING[code], reason, closes_connection=True)
        if code in _PERMANENT:
            return Refusal(f"{reason}: {_PERMANENT[code]}", oldest_pending=True)
        pause = self._pause if code == _TAKEN else 0.0
        return Refusal(reason, oldest_pending=True, permanent=False, retry_after_seconds=pause)


def _parts(some: Sequence[Subscription]) -> list[Sequence[Subscription]]:
    return [some[start : start + _BATCH] for start in range(0, len(some), _BATCH)]
