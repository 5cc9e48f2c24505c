"""cryptofeed's writer for PostgreSQL: ``python cryptofeed_postgres.py PORT COUNT``.

Hands trades to its callback as a feed does, and prints the seconds of CPU until they are all stored.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import asyncpg
import cryptofeed_trades
from cryptofeed.backends.postgres import TradePostgres


async def run(port: int, count: int) -> float:
    """Write *count* trades to an empty table."""
    place = {"host": "127.0.0.1", "port": port, "user": "postgres"}
    writer: Any = TradePostgres(**place, db="postgres")
    trades = cryptofeed_trades.made(count, type="limit")
    client = await asyncpg.connect(**place, database="postgres")
    start = time.process_time()
    await cryptofeed_trades.hand_over(trades, writer)
    while (  # noqa: ASYNC110  # the server tells nobody
        await client.fetchval("SELECT count(*) FROM trades") < count
    ):
        await asyncio.sleep(0.05)
    took = time.process_time() - start
    await writer.stop()
    return took


if __name__ == "__main__":
    print(asyncio.run(run(int(sys.argv[1]), int(sys.argv[2]))))
