"""An alert when a symbol is silent for 2 seconds on a connection that works, and when it is back.

Core judges every subscription by its own pauses, and reports a `Status` "stalled" after 5 seconds at the
earliest; this program has a limit of its own, and prints both.
``python docs/examples/stall_alert.py`` needs tapeloom-binance and tapeloom-simulator. The market is simulated;
its trades of ETH/USDT stop for three seconds.
"""

import anyio
import tapeloom
from tapeloom import FeedSpec, Stack, Status, Trade
from tapeloom_simulator import Fault, serve

SYMBOLS = ["BTC/USDT", "ETH/USDT"]
SILENCE = Fault(kind="silent_stall", symbol="ETH/USDT", channel="trades", after=50, seconds=3)
LIMIT_SECONDS = 2.0


def alert(text):
    print("ALERT:", text)  # here you would send a message


async def check(last, silent):
    """Alert for every symbol whose last event is too old."""
    while True:
        await anyio.sleep(0.1)
        for symbol, time in last.items():
            if symbol not in silent and anyio.current_time() - time > LIMIT_SECONDS:
                silent.add(symbol)
                alert(f"{symbol}: no trade for {LIMIT_SECONDS:.0f} seconds")


async def watch(stream):
    last, silent = {}, set()  # the time of the last trade of each symbol; the silent symbols
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(check, last, silent)
        async for event in stream.of(Trade, Status):
            if isinstance(event, Status):
                if event.state == "stalled":
                    alert(f"{event.symbol}: {event.detail}")
                continue
            now = anyio.current_time()
            if event.symbol in silent:
                alert(f"{event.symbol}: trades again after {now - last[event.symbol]:.1f} seconds")
                tasks.cancel_scope.cancel()
                return
            last[event.symbol] = now


async def main():
    async with serve("binance", symbols=SYMBOLS, seed=7, rate=200, faults=[SILENCE]) as venue:
        stack = Stack(
            feeds=[FeedSpec("binance", SYMBOLS, ["trades"])],
            venues={"binance": {"base_url": venue.url}},
        )
        async with tapeloom.open(stack) as stream:
            await watch(stream)


if __name__ == "__main__":
    anyio.run(main)
