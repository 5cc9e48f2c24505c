"""Store a few seconds of trades and bars in Redis, and read them back.

``python docs/examples/store_redis.py redis://127.0.0.1:6379/0`` needs a server of Redis or Valkey, and the
packages tapeloom-redis, tapeloom-binance, tapeloom-bars and tapeloom-simulator. The market is simulated.
"""

import sys

import anyio
import redis
import tapeloom
from tapeloom import FeedSpec, SinkSpec, Stack, StageSpec, decode
from tapeloom_simulator import serve

SYMBOLS = ["BTC/USDT", "ETH/USDT"]


async def store(url: str, seconds: float) -> None:
    async with serve("binance", symbols=SYMBOLS, rate=200) as venue:
        stack = Stack(
            feeds=[FeedSpec("binance", SYMBOLS, ["trades"], stages=["bars"])],
            stages={"bars": StageSpec("bars", table={"every": "1s"})},
            venues={"binance": {"base_url": venue.url}},
            sinks=[SinkSpec("redis", table={"url": url, "prefix": "example", "latest": True})],
        )
        async with tapeloom.open(stack) as stream:
            with anyio.move_on_after(seconds):
                await stream.run()


def main(url: str, seconds: float = 2) -> None:
    anyio.run(store, url, seconds)
    with redis.Redis.from_url(url) as client:
        print(client.xlen("example:trade"), "trades, the newest of each symbol:")
        for line in client.hvals("example:latest:trade"):
            trade = decode(line)
            print(trade.time, trade.symbol, trade.price, trade.size)
        print("the last bars:")
        for _, fields in client.xrevrange("example:bar", count=4):
            bar = decode(fields[b"event"])
            print(bar.timestamp, bar.symbol, bar.open, bar.high, bar.low, bar.close, bar.volume)


if __name__ == "__main__":
    main(sys.argv[1])
