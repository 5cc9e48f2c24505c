"""A venue that is never dialled, so that whatever else a stack has can be composed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tapeloom.hooks import hookimpl
from tapeloom.plugin import Endpoint, Feed, Message

__all__ = ["NullVenue"]


class _Codec:
    def native(self, symbol: str) -> str:
        return symbol

    def encode_subscribe(self, subscriptions: Sequence[Any], first_id: int) -> list[Message]:
        return []

    encode_unsubscribe = encode_subscribe

    def decode_reply(self, frame: bytes) -> None:
        return None


class NullVenue:
    """The plugin."""

    @hookimpl
    def connect(self, feed: Feed) -> list[Endpoint]:
        """Name an address that is none."""
        return [Endpoint(url="ws://contract.invalid")]

    @hookimpl
    def subscribe(self, feed: Feed) -> _Codec:
        """Return a language without words."""
        return _Codec()
