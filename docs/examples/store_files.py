"""Store a few seconds of trades and bars as JSON lines, and read them back.

``python docs/examples/store_files.py FOLDER`` needs the packages tapeloom-files, tapeloom-binance,
tapeloom-bars and tapeloom-simulator. The market is simulated.
"""

import sys
from collections import Counter
from pathlib import Path

import anyio
import tapeloom
from tapeloom import FeedSpec, SinkSpec, Stack, StageSpec, decode
from tapeloom_simulator import serve

SYMBOLS = ["BTC/USDT", "ETH/USDT"]


async def store(folder: str, seconds: float) -> None:
    async with serve("binance", symbols=SYMBOLS, rate=200) as venue:
        stack = Stack(
            feeds=[FeedSpec("binance", SYMBOLS, ["trades"], stages=["bars"])],
            stages={"bars": StageSpec("bars", table={"every": "1s"})},
            venues={"binance": {"base_url": venue.url}},
            sinks=[SinkSpec("files", table={"path": folder})],
        )
        async with tapeloom.open(stack) as stream:
            with anyio.move_on_after(seconds):
                await stream.run()


def main(folder: str, seconds: float = 2) -> None:
    anyio.run(store, folder, seconds)
    counts: Counter[str] = Counter()
    for path in sorted(Path(folder).glob("*.jsonl")):
        with path.open(encoding="utf-8") as file:
            counts.update(decode(line).type for line in file)
    for name, count in sorted(counts.items()):
        print(name, count)


if __name__ == "__main__":
    main(sys.argv[1])
