"""The venue contract for Hyperliquid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from tapeloom_testing.contract import Capture, VenueContract


class TestHyperliquid(VenueContract):
    venue = "hyperliquid"
    markets: ClassVar[Mapping[str, Sequence[str]]] = {
        "perp": ("BTC/USDC:USDC", "KPEPE/USDC:USDC"),
        "spot": ("PURR/USDC", "HYPE/USDC"),
    }
    channels = ("trades", "quotes", "book:20", "book:5", "klines:1m", "ticker")
    history = ("listing", "trades", "bars", "book")
    unknown = (
        '{"channel":"allMids","data":{"mids":{"BTC":"84143.5"}}}',
        '{"channel":"userFills","data":{"isSnapshot":true,"user":"0x1","fills":[]}}',
    )
    captures: ClassVar[Mapping[str, Capture]] = {
        "hyperliquid/btc_20250126_a": Capture(
            market="perp", symbols=("BTC/USDC:USDC",), channels=("trades", "book:20")
        ),
        "hyperliquid/samples_jkorf": Capture(
            market="perp",
            symbols=("HYPE/USDC:USDC",),
            channels=("trades", "book:20", "klines:1d", "quotes"),
        ),
    }
