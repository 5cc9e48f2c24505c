"""Write a few seconds of trades and bars to Kafka, and read them back.

``python docs/examples/store_kafka.py broker:9092`` needs brokers; without an address it uses a cluster in
the memory of this process. It also needs the packages tapeloom-kafka, tapeloom-binance, tapeloom-bars and
tapeloom-simulator. The market is simulated.
"""

import sys

import anyio
import tapeloom
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from tapeloom import FeedSpec, SinkSpec, Stack, StageSpec, decode
from tapeloom_simulator import serve

SYMBOLS = ["BTC/USDT", "ETH/USDT"]
TOPICS = [f"example.{kind}" for kind in ("trade", "bar", "status", "gap", "reject", "cursor")]


async def store(servers: str, seconds: float) -> None:
    settings = {"servers": servers, "topic": "example.{type}", "cursor_topic": "example.cursor"}
    async with serve("binance", symbols=SYMBOLS, rate=200) as venue:
        stack = Stack(
            feeds=[FeedSpec("binance", SYMBOLS, ["trades"], stages=["bars"])],
            stages={"bars": StageSpec("bars", table={"every": "1s"})},
            venues={"binance": {"base_url": venue.url}},
            sinks=[SinkSpec("kafka", table=settings)],
        )
        async with tapeloom.open(stack) as stream:
            with anyio.move_on_after(seconds):
                await stream.run()


def read(servers: str, topic: str) -> list[tapeloom.Event]:
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "example",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
        }
    )
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
    events = []
    while messages := consumer.consume(1000, timeout=1):
        events += [decode(message.value()) for message in messages]
    consumer.close()
    return sorted(events, key=lambda event: event.ts)


def main(servers: str = "", seconds: float = 2) -> None:
    if not servers:
        cluster = Producer({"test.mock.num.brokers": 1, "log_level": 0})
        brokers = cluster.list_topics(timeout=10).brokers.values()
        servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
        for topic in TOPICS:
            cluster.list_topics(topic, timeout=10)  # creates it, because the sink cannot there
    anyio.run(store, servers, seconds)
    print(len(read(servers, "example.trade")), "trades, and the last bars:")
    for bar in read(servers, "example.bar")[-4:]:
        print(bar.timestamp, bar.symbol, bar.open, bar.high, bar.low, bar.close, bar.volume)


if __name__ == "__main__":
    main(*sys.argv[1:2])
