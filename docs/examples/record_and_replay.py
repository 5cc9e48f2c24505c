"""Record a market, and replay the recording at ten times its speed.

``python docs/examples/record_and_replay.py`` needs tapeloom-binance, tapeloom-bars and tapeloom-simulator. The
market is simulated, and its day is three seconds long.
"""

import tempfile
from time import perf_counter

import anyio
import tapeloom
from tapeloom import Bar, FeedSpec, Stack, Trade
from tapeloom_simulator import serve

SYMBOLS = ["BTC/USDT", "ETH/USDT"]


def stack(url=""):
    return Stack(
        feeds=[FeedSpec("binance", SYMBOLS, ["trades"], stages=["bars"])],
        stages={"bars": {"every": "1s"}},
        venues={"binance": {"base_url": url}} if url else {},
    )


async def consume(stream, day=None):
    """Print what a stream gives, to its end or for the seconds of a *day*; return the trades."""
    trades, bars, began = [], 0, perf_counter()
    with anyio.move_on_after(day):
        async for event in stream.of(Trade, Bar):
            if isinstance(event, Trade):
                trades.append(event)
            else:
                bars += 1
    print(f"{len(trades)} trades and {bars} bars in {perf_counter() - began:.1f} seconds")
    return trades


async def main(day=3.0):
    with tempfile.TemporaryDirectory() as folder:
        async with (
            serve("binance", symbols=SYMBOLS, seed=7, rate=200) as venue,
            tapeloom.open(stack(venue.url), record=folder) as stream,
        ):
            live = await consume(stream, day)
        async with tapeloom.replay(folder, stack(), speed=10) as stream:
            replayed = await consume(stream)
    print("the same trades:", replayed[: len(live)] == live)


if __name__ == "__main__":
    anyio.run(main)
