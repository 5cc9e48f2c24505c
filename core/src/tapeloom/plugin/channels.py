"""Channels, and the subscription of one symbol to one channel."""

from __future__ import annotations

from typing import NamedTuple


def channel_parts(channel: str) -> tuple[str, str]:
    """Split a channel into name and parameter: ``klines:1m`` into ``("klines", "1m")``, ``trades`` into ``("trades", "")``."""
    name, _, parameter = channel.partition(":")
    return name, parameter


class Subscription(NamedTuple):
    """One channel of one symbol."""

    symbol: str  #: The unified symbol.
    channel: str  #: The channel, with its parameter, as in ``klines:1m``.

    def __str__(self) -> str:
        return f"{self.symbol} {self.channel}"
