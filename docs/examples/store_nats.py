"""Store a few seconds of trades and bars in NATS JetStream, and read them back.

``python docs/examples/store_nats.py nats://127.0.0.1:4222`` needs a NATS server with JetStream
(``nats-server -js``), and the packages tapeloom-nats, tapeloom-binance, tapeloom-bars and
tapeloom-simulator. The market is simulated.
"""

import sys
from collections import Counter

import anyio
import nats
import tapeloom
from tapeloom import FeedSpec, SinkSpec, Stack, StageSpec
from tapeloom_nats import MessageReader
from tapeloom_simulator import serve

SYMBOLS = ["BTC/USDT", "ETH/USDT"]


async def store(url: str, seconds: float) -> None:
    async with serve("binance", symbols=SYMBOLS, rate=200) as venue:
        stack = Stack(
            feeds=[FeedSpec("binance", SYMBOLS, ["trades"], stages=["bars"])],
            stages={"bars": StageSpec("bars", table={"every": "1s"})},
            venues={"binance": {"base_url": venue.url}},
            sinks=[
                SinkSpec("nats", table={"servers": url, "stream": "example", "prefix": "example"})
            ],
        )
        async with tapeloom.open(stack) as stream:
            with anyio.move_on_after(seconds):
                await stream.run()


async def read(url: str) -> None:
    client, reader, counts = await nats.connect(url), MessageReader(), Counter()
    subscription = await client.jetstream().pull_subscribe("example.nats.*", stream="example")
    left = (await subscription.consumer_info()).num_pending
    while left:
        for message in await subscription.fetch(min(left, 100)):
            left -= 1
            for number, event in reader.read(message.subject, message.headers, message.data):
                counts[event.type] += 1
                if event.type == "bar":
                    print(number, event.timestamp, event.symbol, event.close, event.volume)
    await client.close()
    print(", ".join(f"{count} × {name}" for name, count in counts.items()))


async def main(url: str, seconds: float = 3) -> None:
    await store(url, seconds)
    await read(url)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1])
