"""The guide's exchanges and brokers: subclasses of the adapter that only name their venue."""

from __future__ import annotations

from typing import Any

from .adapter import Venue, WebSocketAdapter

__all__ = [
    "AlpacaBrokerAdapter",
    "BinanceWebSocketAdapter",
    "BybitWebSocketAdapter",
    "CCXTWebSocketAdapter",
    "HyperliquidWebSocketAdapter",
    "IBBrokerAdapter",
]


class BinanceWebSocketAdapter(WebSocketAdapter):
    """Streams Binance's spot market, or its USD-M futures if ``market="usdm"``."""

    venue = Venue(plugin="binance", market="spot")


class BybitWebSocketAdapter(WebSocketAdapter):
    """Streams Bybit's linear perpetuals, or its spot market if ``market="spot"``."""

    venue = Venue(plugin="bybit", market="linear")


class HyperliquidWebSocketAdapter(WebSocketAdapter):
    """Streams Hyperliquid's perpetuals, or its spot market if ``market="spot"``.

    The symbol ``BTC-PERP`` is translated to ``BTC/USDC:USDC``.
    """

    venue = Venue(plugin="hyperliquid", market="perp", stablecoin="USDC")


class AlpacaBrokerAdapter(WebSocketAdapter):
    """The adapter for Alpaca: stocks, polled over REST; with ``mode="stream"``, streamed.

    With *testnet*, the keys are those of a paper account.
    """

    venue = Venue(
        plugin="alpaca",
        key="key_id",
        secret="secret_key",  # noqa: S106 the name of a setting
        testnet={"paper": True},
        settings={"mode": "poll"},
        lateness="10s",
    )


class IBBrokerAdapter(WebSocketAdapter):
    """Interactive Brokers through TWS or IB Gateway: ``host=``, ``port=``, ``client_id=``.

    There are no keys: the program on *host* is logged in. *testnet* is its paper account.
    """

    venue = Venue(plugin="ib", testnet={"paper": True})


class CCXTWebSocketAdapter(WebSocketAdapter):
    """Any exchange that ccxt.pro can watch, by its ccxt id: ``exchange_id="kraken"``."""

    venue = Venue(
        plugin="ccxt",
        secret="secret",  # noqa: S106 the name of a setting
        testnet={"sandbox": True},
        per_market="exchanges",
    )

    def __init__(
        self,
        exchange_id: str,
        api_key: str | None = None,
        api_secret: str | None = None,
        testnet: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(api_key, api_secret, testnet, market=exchange_id, **options)
