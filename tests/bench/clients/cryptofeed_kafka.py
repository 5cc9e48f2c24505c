"""cryptofeed's writer for Kafka: ``python cryptofeed_kafka.py SERVERS KEY COUNT``.

Hands trades to its callback as a feed does, and prints the seconds and the seconds of CPU until the brokers
have acknowledged all of them. Its topic, KEY-BINANCE-BTC-USDT, exists.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import cryptofeed_trades
from aiokafka import AIOKafkaConsumer
from cryptofeed.backends.kafka import TradeKafka


async def run(servers: str, key: str, count: int) -> tuple[float, float]:
    """Write *count* trades to an empty topic."""
    writer: Any = TradeKafka(key=key, bootstrap_servers=servers)
    trades = cryptofeed_trades.made(count)
    consumer = AIOKafkaConsumer(f"{key}-BINANCE-BTC-USDT", bootstrap_servers=servers)
    await consumer.start()
    start, cpu = time.perf_counter(), time.process_time()
    await cryptofeed_trades.hand_over(trades, writer)
    while (  # noqa: ASYNC110  # the brokers tell nobody
        sum((await consumer.end_offsets(consumer.assignment())).values()) < count
    ):
        await asyncio.sleep(0.05)
    took = time.perf_counter() - start, time.process_time() - cpu
    await writer.stop()
    await consumer.stop()
    return took


if __name__ == "__main__":
    print(*asyncio.run(run(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
