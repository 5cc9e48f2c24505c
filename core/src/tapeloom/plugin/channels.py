"""Channels, and the subscription of one symbol to one channel."""

from __future__ import annotations

from attrs import frozen


def channel_parts(channel: str) -> tuple[str, str]:
    """Split ``klines:1m`` into ``("klines", "1m")`` and ``trades`` into ``("trades", "")``."""
    name, _, parameter = channel.partition(":")
    return name, parameter


@frozen
class Subscription:
    """One channel of one symbol. The channel may carry a parameter, as in ``klines:1m``."""

    symbol: str
    channel: str

    def __str__(self) -> str:
        return f"{self.symbol} {self.channel}"
