"""What `tapeloom top` costs the thread of a stream: CPU a trade with and without it, in turns.

A simulated venue in a process of its own sends trades at a rate; the stream has the stages quality and bars and
a consumer that does nothing. In every second turn the app of tapeloom-top runs beside it, drawn four times
a second without a terminal. CPU is that of the stream's thread, by its own clock, so other processes of the
machine disturb it little. Prints a line for each turn, and the medians.

    python tests/bench/top.py --rate 50000 --seconds 8 --turns 3
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import tapeloom
from anyio.from_thread import start_blocking_portal
from tapeloom import FeedSpec, Stack, Stream, Trade
from tapeloom_screens import Market
from tapeloom_top.app import TopApp
from tapeloom_top.command import _SWITCH_SECONDS
from tapeloom_top.feeding import Feeding

SYMBOLS = tuple(f"{name}/USDT" for name in ("BTC", "ETH", "SOL", "XRP", "DOGE", "ADA"))
#: Seconds after a start that are not measured.
WARM_UP = 3.0


@contextlib.contextmanager
def venue(rate: float) -> Iterator[str]:
    """Run a simulated venue in a process of its own; yield its address."""
    command = ["simulate", "binance", "--symbols", ",".join(SYMBOLS), "--rate", str(rate)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tapeloom", *command], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://\S+?:\d+", line):
                yield found[0]
                return
    finally:
        process.kill()
        process.wait()


def stack(url: str) -> Stack:
    feed = FeedSpec("binance", SYMBOLS, ("trades",), market="spot", stages=("quality", "bars"))
    return Stack(
        feeds=(feed,),
        venues={"binance": {"base_url": url}},
        stages={"bars": {"every": ["1s", "1m"]}},
    )


class Meter:
    """CPU of the stream's thread and trades, since the first call."""

    def __init__(self) -> None:
        self.trades = 0

    async def consume(self, stream: Stream) -> None:
        async for batch in stream.batches(Trade):
            self.trades += len(batch)

    async def read(self) -> tuple[float, int, float]:
        return time.thread_time(), self.trades, time.monotonic()


def report(name: str, before: tuple[float, int, float], after: tuple[float, int, float]) -> float:
    cpu, trades, seconds = (end - start for start, end in zip(before, after, strict=True))
    cost = cpu / trades * 1e6
    print(f"{name:8} {trades / seconds:8.0f} trades/s {cost:6.2f} µs CPU a trade", flush=True)
    return cost


def alone(url: str, seconds: float) -> float:
    """Measure a turn of the stream alone."""
    meter = Meter()
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(portal.call(tapeloom.open, stack(url))) as stream,
    ):
        portal.start_task_soon(meter.consume, stream)
        time.sleep(WARM_UP)
        before = portal.call(meter.read)
        time.sleep(seconds)
        cost = report("alone", before, portal.call(meter.read))
        portal.call(stream.stop)
    return cost


def watched(url: str, seconds: float) -> float:
    """Measure a turn of the stream with the app beside it."""
    meter, market = Meter(), Market()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)  # as the command does
    try:
        return _watched(url, seconds, meter, market)
    finally:
        sys.setswitchinterval(interval)


def _watched(url: str, seconds: float, meter: Meter, market: Market) -> float:
    with Feeding(lambda: tapeloom.open(stack(url)), market) as feeding:
        assert feeding._portal is not None
        assert feeding._stream is not None
        feeding._portal.start_task_soon(meter.consume, feeding._stream)

        async def watch() -> float:
            app = TopApp(market, feeding)
            async with app.run_test(size=(120, 40)) as pilot:
                await pilot.press("2")
                await asyncio.sleep(WARM_UP)
                before = await asyncio.to_thread(feeding._portal.call, meter.read)
                await asyncio.sleep(seconds)
                after = await asyncio.to_thread(feeding._portal.call, meter.read)
            return report("with top", before, after)

        return asyncio.run(watch())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=50_000)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    costs: dict[str, list[float]] = {"alone": [], "with top": []}
    with venue(args.rate) as url:
        for _ in range(args.turns):
            costs["alone"].append(alone(url, args.seconds))
            costs["with top"].append(watched(url, args.seconds))
    medians = {name: statistics.median(found) for name, found in costs.items()}
    more = medians["with top"] / medians["alone"] - 1
    print(f"medians: {medians['alone']:.2f} and {medians['with top']:.2f} µs, {more:+.1%}")


if __name__ == "__main__":
    main()
