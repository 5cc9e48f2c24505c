"""Volume bars: a stage of your own closes a bar after every 1.5 units that were traded, and not by time.

``python docs/examples/volume_bars.py`` needs tapeloom-binance and tapeloom-simulator. The market is simulated.
"""

import sys
from collections import defaultdict
from decimal import Decimal
from typing import ClassVar

import anyio
import attrs
import tapeloom
from tapeloom import FeedSpec, Registry, Stack, Trade
from tapeloom.events import BaseEvent, event_class
from tapeloom.hooks import hookimpl
from tapeloom_simulator import serve

SYMBOLS = ["BTC/USDT", "ETH/USDT"]


@attrs.frozen(kw_only=True)
class Settings:
    size: Decimal = attrs.field(default=Decimal(1), converter=Decimal)


@event_class
class VolumeBar(BaseEvent):
    """The trades until their sizes have reached the size of a bar."""

    type: ClassVar[str] = "volume_bar"

    venue: str
    symbol: str
    ts: int  # the time of the last trade
    recv: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    trades: int
    channel: str = "volume_bars"


@hookimpl
def settings():
    return Settings


@hookimpl
def aggregate(feed):
    size = feed.settings.size
    trades = defaultdict(list)  # of the forming bar, by symbol
    volumes = defaultdict(Decimal)

    def volume_bars(events):
        out = []
        for event in events:
            out.append(event)
            if type(event) is Trade:
                symbol = event.symbol
                trades[symbol].append(event)
                volumes[symbol] += event.size
                if volumes[symbol] >= size:
                    out.append(bar(trades.pop(symbol), volumes.pop(symbol)))
        return out

    return volume_bars


def bar(trades, volume):
    last, prices = trades[-1], [trade.price for trade in trades]
    return VolumeBar(
        last.venue, last.symbol, last.ts, last.recv,
        prices[0], max(prices), min(prices), prices[-1], volume, len(trades),
    )  # fmt: skip


async def main(count=6):
    registry = Registry()
    registry.register(sys.modules[__name__], "volume_bars")
    async with serve("binance", symbols=SYMBOLS, seed=7, rate=200) as venue:
        stack = Stack(
            feeds=[FeedSpec("binance", SYMBOLS, ["trades"], stages=["volume_bars"])],
            stages={"volume_bars": {"size": "1.5"}},
            venues={"binance": {"base_url": venue.url}},
        )
        async with tapeloom.open(stack, registry=registry) as stream:
            async for event in stream.of(VolumeBar):
                print(event.symbol, event.open, event.close, event.volume, event.trades, "trades")
                count -= 1
                if not count:
                    break


if __name__ == "__main__":
    anyio.run(main)
