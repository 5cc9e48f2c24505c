"""Store a few seconds of trades and bars as Parquet files, and read them back.

``python docs/examples/store_parquet.py FOLDER`` needs the packages tapeloom-parquet[sql], tapeloom-columns,
tapeloom-binance, tapeloom-bars and tapeloom-simulator. The market is simulated.
"""

import sys

import anyio
import duckdb
import tapeloom
from tapeloom import Bar, FeedSpec, SinkSpec, Stack, StageSpec
from tapeloom_parquet import events
from tapeloom_simulator import serve

SYMBOLS = ["BTC/USDT", "ETH/USDT"]


async def store(folder: str, seconds: float) -> None:
    async with serve("binance", symbols=SYMBOLS, rate=200) as venue:
        stack = Stack(
            feeds=[FeedSpec("binance", SYMBOLS, ["trades"], stages=["bars"])],
            stages={"bars": StageSpec("bars", table={"every": "1s"})},
            venues={"binance": {"base_url": venue.url}},
            sinks=[SinkSpec("parquet", table={"path": folder})],
        )
        async with tapeloom.open(stack) as stream:
            with anyio.move_on_after(seconds):
                await stream.run()


def main(folder: str, seconds: float = 2) -> None:
    anyio.run(store, folder, seconds)
    trades = f"read_parquet('{folder}/type=trade/**/*.parquet', union_by_name = true)"
    for row in duckdb.sql(f"SELECT symbol, count(*) FROM {trades} GROUP BY ALL").fetchall():
        print(*row)
    for bar in list(events(folder, Bar))[-4:]:
        print(bar.timestamp, bar.symbol, bar.open, bar.high, bar.low, bar.close, bar.volume)


if __name__ == "__main__":
    main(sys.argv[1])
