"""nautilus_trader, live: its data client for Binance, its data engine, and a subscriber to its bus.

Instruments are made by hand and HTTP is never used.
"""

from __future__ import annotations

import asyncio

import uvloop
from meter import Meter, arguments, bases
from nautilus_trader.adapters.binance.common.enums import BinanceAccountType
from nautilus_trader.adapters.binance.config import BinanceDataClientConfig
from nautilus_trader.adapters.binance.http.client import BinanceHttpClient
from nautilus_trader.adapters.binance.spot.data import BinanceSpotDataClient
from nautilus_trader.cache.cache import Cache
from nautilus_trader.common.component import LiveClock, MessageBus
from nautilus_trader.common.providers import InstrumentProvider
from nautilus_trader.config import InstrumentProviderConfig
from nautilus_trader.live.data_engine import LiveDataEngine
from nautilus_trader.model.currencies import USDT
from nautilus_trader.model.identifiers import InstrumentId, Symbol, TraderId, Venue
from nautilus_trader.model.instruments import CurrencyPair
from nautilus_trader.model.objects import Currency, Price, Quantity

given = arguments()
meter = Meter(given)


def instrument(base: str) -> CurrencyPair:
    name = f"{base}USDT"
    return CurrencyPair(
        instrument_id=InstrumentId(Symbol(name), Venue("BINANCE")), raw_symbol=Symbol(name),
        base_currency=Currency.from_str(base, strict=False), quote_currency=USDT,
        price_precision=8, size_precision=8, price_increment=Price.from_str("0.00000001"),
        size_increment=Quantity.from_str("0.00000001"), ts_event=0, ts_init=0,
    )  # fmt: skip


async def main() -> None:
    loop, clock = asyncio.get_running_loop(), LiveClock()
    bus, cache, provider = (
        MessageBus(trader_id=TraderId("T-001"), clock=clock),
        Cache(),
        InstrumentProvider(),
    )
    instruments = [instrument(base) for base in bases()]
    for one in instruments:
        provider.add(one)
        cache.add_instrument(one)
    engine = LiveDataEngine(loop=loop, msgbus=bus, cache=cache, clock=clock)
    client = BinanceSpotDataClient(
        loop=loop, client=BinanceHttpClient(clock, "key", "secret", base_url="http://127.0.0.1:9"),
        msgbus=bus, cache=cache, clock=clock, instrument_provider=provider, base_url_ws=given.url,
        config=BinanceDataClientConfig(
            api_key="key", api_secret="secret", account_type=BinanceAccountType.SPOT,
            instrument_provider=InstrumentProviderConfig(),
        ),
    )  # fmt: skip
    engine.register_client(client)
    engine.start()
    for one in instruments:
        bus.subscribe(
            topic=f"data.trades.BINANCE.{one.id.symbol.value}", handler=lambda trade: meter.take(1)
        )
    for one in instruments:
        await client._ws_client.subscribe_trades(one.id.symbol.value)
    await asyncio.Event().wait()


uvloop.run(main())
