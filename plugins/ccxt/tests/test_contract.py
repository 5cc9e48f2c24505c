"""The venue contract for ccxt, with the simulated Binance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tapeloom_testing.contract import VenueContract


class TestCcxt(VenueContract):
    venue = "ccxt"
    simulator = "binance"
    markets = {"binance": ("BTC/USDT", "ETH/USDT")}
    channels = ("trades", "quotes", "book", "klines:1m", "ticker")

    def table(self, market: str, simulation: Any) -> Mapping[str, Any]:
        url = simulation.url
        rest, ws = f"{url}/api/v3", url.replace("http", "ws", 1)
        return {
            "exchanges": {
                market: {
                    "options": {"fetchMarkets": {"types": ["spot"]}},
                    "urls": {
                        "api": {"public": rest, "v1": rest, "ws": {"spot": f"{ws}/stream/ws"}}
                    },
                }
            }
        }
