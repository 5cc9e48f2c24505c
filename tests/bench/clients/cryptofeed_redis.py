"""cryptofeed's writer for Redis streams: ``python cryptofeed_redis.py PORT COUNT``.

Hands trades to its callback as a feed does, and prints the seconds and the seconds of CPU until the stream
has all of them.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import cryptofeed_trades
import redis
from cryptofeed.backends.redis import TradeStream


async def run(port: int, count: int) -> tuple[float, float]:
    """Write *count* trades to an empty server."""
    writer: Any = TradeStream(host="127.0.0.1", port=port, key="trades")
    trades = cryptofeed_trades.made(count)
    client = redis.Redis(port=port)
    start, cpu = time.perf_counter(), time.process_time()
    await cryptofeed_trades.hand_over(trades, writer)
    while (  # noqa: ASYNC110  # the server tells nobody
        client.execute_command("DBSIZE") == 0
        or sum(client.xlen(key) for key in client.scan_iter(_type="stream")) < count
    ):
        await asyncio.sleep(0.05)
    took = time.perf_counter() - start, time.process_time() - cpu
    await writer.stop()
    return took


if __name__ == "__main__":
    print(*asyncio.run(run(int(sys.argv[1]), int(sys.argv[2]))))
