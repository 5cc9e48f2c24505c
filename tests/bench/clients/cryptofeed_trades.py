"""Trades of cryptofeed, and how a feed of it hands them to a writer: for the clients that measure one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from cryptofeed.types import Trade


def made(count: int, **more: Any) -> list[Trade]:
    """Return trades with ids from 0; *more* are fields besides."""
    return [
        Trade(
            "BINANCE", "BTC-USDT", "buy", Decimal("0.00100"), Decimal("60000.50"), 1.7e9 + n / 1000,
            id=str(n), **more,
        )
        for n in range(count)
    ]  # fmt: skip


async def hand_over(trades: Sequence[Trade], writer: Any) -> None:
    """Start a writer, and call it with each trade."""
    writer.start(asyncio.get_running_loop())
    for number, trade in enumerate(trades):
        await writer(trade, 1.7e9)
        if number % 64 == 63:  # a read has many trades; then others run
            await asyncio.sleep(0)
