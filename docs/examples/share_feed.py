"""Three programs on one feed: one process connects to the venue, three read its stream.

``python docs/examples/share_feed.py`` needs the packages tapeloom-serve, tapeloom-binance, tapeloom-bars and
tapeloom-simulator. The market is simulated. The three are tasks here, and could be processes anywhere.
"""

import anyio
import tapeloom
from tapeloom import Bar, FeedSpec, Gap, Quote, SinkSpec, Stack, StageSpec, Trade
from tapeloom_simulator import serve

SYMBOLS = ["BTC/USDT", "ETH/USDT"]
PORT = 8787


async def publish(port: int) -> None:
    """Connect to the venue, and serve the stream."""
    async with serve("binance", symbols=SYMBOLS, rate=200) as venue:
        stack = Stack(
            feeds=[FeedSpec("binance", SYMBOLS, ["trades", "quotes"], stages=["bars"])],
            stages={"bars": StageSpec("bars", table={"every": "1s"})},
            venues={"binance": {"base_url": venue.url}},
            sinks=[SinkSpec("serve", table={"port": port}, max_batch_delay=0.01)],
        )
        async with tapeloom.open(stack) as stream:
            await stream.run()


async def count_trades(url: str, found: dict[str, int]) -> None:
    """Count the trades of one symbol, and what was missed."""
    async with tapeloom.connect(url, symbols=["BTC/USDT"], types=["trade", "gap"]) as stream:
        async for event in stream.of(Trade, Gap):
            name = "missed" if isinstance(event, Gap) else "trades"
            found[name] = found.get(name, 0) + (getattr(event, "missing", 1) or 1)


async def watch_spread(url: str, found: dict[str, int]) -> None:
    """Follow the best bid and ask; only the latest quote of each symbol matters."""
    async with tapeloom.connect(url, types=["quote"], policy="conflate") as stream:
        async for quote in stream.of(Quote):
            if quote.bid is not None and quote.ask is not None:
                found["quotes"] = found.get("quotes", 0) + 1


async def collect_bars(url: str, found: dict[str, int]) -> None:
    """Collect the bars that were built once, for all."""
    async with tapeloom.connect(url, types=["bar"]) as stream:
        async for _ in stream.of(Bar):
            found["bars"] = found.get("bars", 0) + 1


def main(seconds: float = 4, port: int = PORT) -> None:
    url, found = f"ws://127.0.0.1:{port}/stream", {}

    async def run() -> None:
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(publish, port)
                for bot in (count_trades, watch_spread, collect_bars):
                    tasks.start_soon(bot, url, found)

    anyio.run(run)
    for name in ("trades", "quotes", "bars"):
        print(name, found.get(name, 0))


if __name__ == "__main__":
    main()
