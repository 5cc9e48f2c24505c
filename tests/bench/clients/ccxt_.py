"""ccxt.pro: `watch_trades_for_symbols`; counted are the trades that its handler has parsed.

What it returns may be fewer: its cache keeps the latest thousand trades of a symbol.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request

import ccxt.pro
from meter import Meter, arguments, bases

given = arguments()
meter = Meter(given)


def listed() -> list[object]:
    """Return the venue's list of symbols."""
    with urllib.request.urlopen(
        f"http{given.url.removeprefix('ws')}/api/v3/exchangeInfo"
    ) as answer:
        return json.load(answer)["symbols"]


async def main() -> None:
    exchange = ccxt.pro.binance({"newUpdates": True, "options": {"defaultType": "spot"}})
    exchange.options |= {"crossMarginPairsData": [], "isolatedMarginPairsData": []}
    exchange.set_markets([exchange.parse_market(one) for one in listed()])
    exchange.urls["api"]["ws"]["spot"] = f"{given.url}/ws"
    handle = exchange.handle_trade

    def counting(client: object, message: object) -> None:
        handle(client, message)
        meter.take(1)

    exchange.handle_trade = counting
    while True:
        await exchange.watch_trades_for_symbols([f"{base}/USDT" for base in bases()])


asyncio.run(main())
