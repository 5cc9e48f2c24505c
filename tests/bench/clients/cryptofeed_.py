"""cryptofeed: one feed of Binance, an async callback for each trade.

It subscribes to aggTrade, by its own choice. The list of symbols is given by hand, its address is
replaced, and it is given an event loop, which it expects to exist.
"""

from __future__ import annotations

import asyncio

import cryptofeed.connection
from cryptofeed import FeedHandler
from cryptofeed.connection import WebsocketEndpoint
from cryptofeed.defines import TRADES
from cryptofeed.exchanges import Binance
from cryptofeed.symbols import Symbols
from meter import Meter, arguments, bases, trust

given = arguments(("loop", "asyncio"))
meter = Meter(given)
connect = cryptofeed.connection.connect


def reach(address: str, **options: object) -> object:
    """Connect to an address that it insists on being wss://."""
    if given.ca:
        return connect(address, ssl=trust(given), **options)
    return connect(address.replace("wss://", "ws://"), **options)


async def count(trade: object, received: float) -> None:
    meter.take(1)


def run(channel: str, callback: object, symbols: list[str]) -> None:
    """Run a feed of one channel, for ever."""
    cryptofeed.connection.connect = reach
    Binance.websocket_endpoints = [WebsocketEndpoint("wss" + given.url[given.url.index("://") :])]
    known = {f"{base}-USDT": f"{base}USDT" for base in bases()}
    Symbols.set(
        Binance.id, known, {"tick_size": {}, "instrument_type": dict.fromkeys(known, "spot")}
    )
    log = {"disabled": True, "filename": "", "level": "ERROR"}
    handler = FeedHandler(config={"uvloop": given.loop == "uvloop", "log": log})
    asyncio.set_event_loop(asyncio.new_event_loop())
    handler.add_feed(Binance(symbols=symbols, channels=[channel], callbacks={channel: callback}))
    handler.run(install_signal_handlers=False)


if __name__ == "__main__":
    run(TRADES, count, [f"{base}-USDT" for base in bases()])
