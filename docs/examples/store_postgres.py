"""Store trades and bars in PostgreSQL until six bars have closed, and read them back.

``python docs/examples/store_postgres.py postgresql://user@host/database`` needs a database, and the packages
tapeloom-postgres, tapeloom-binance, tapeloom-bars and tapeloom-simulator. The market is simulated.
"""

import sys

import anyio
import psycopg
import tapeloom
from tapeloom import Bar, FeedSpec, SinkSpec, Stack, StageSpec
from tapeloom_simulator import serve

SYMBOLS = ["BTC/USDT", "ETH/USDT"]
LAST_BARS = """
SELECT to_timestamp(ts / 1e9) AS start, symbol, open, high, low, close, volume
FROM example.bar WHERE closed ORDER BY ts DESC, symbol LIMIT 4
"""


async def store(dsn: str) -> None:
    async with serve("binance", symbols=SYMBOLS, rate=200) as venue:
        stack = Stack(
            feeds=[FeedSpec("binance", SYMBOLS, ["trades"], stages=["bars"])],
            stages={"bars": StageSpec("bars", table={"every": "1s"})},
            venues={"binance": {"base_url": venue.url}},
            sinks=[SinkSpec("postgres", table={"dsn": dsn, "schema": "example"})],
        )
        async with tapeloom.open(stack) as stream:
            closed = 0
            async for bar in stream.of(Bar):
                closed += bar.closed
                if closed == 6:
                    break


def main(dsn: str) -> None:
    anyio.run(store, dsn)
    with psycopg.connect(dsn) as database:
        for row in database.execute("SELECT symbol, count(*) FROM example.trade GROUP BY symbol"):
            print(*row)
        for row in database.execute(LAST_BARS):
            print(*row)


if __name__ == "__main__":
    main(sys.argv[1])
