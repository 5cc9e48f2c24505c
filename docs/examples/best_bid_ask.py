"""The best bid and ask over two venues: where to buy and where to sell, whenever that changes.

``python docs/examples/best_bid_ask.py`` needs tapeloom-binance, tapeloom-bybit and tapeloom-simulator. The
markets are simulated.
"""

import anyio
import tapeloom
from tapeloom import FeedSpec, Gap, Quote, Stack
from tapeloom_simulator import serve

SYMBOL = "BTC/USDT"


def best(quotes):
    """Return the highest bid and the lowest ask with their venues, or None if one side has no order."""
    bids = [(quote.bid, venue) for venue, quote in quotes.items() if quote.bid is not None]
    asks = [(quote.ask, venue) for venue, quote in quotes.items() if quote.ask is not None]
    return (max(bids), min(asks)) if bids and asks else None


async def watch(stream, count):
    quotes = {}  # the latest of each venue
    shown = None
    async for event in stream.of(Quote, Gap):
        if isinstance(event, Gap):
            quotes.pop(event.venue, None)  # what is known of this venue is too old
            continue
        quotes[event.venue] = event
        found = best(quotes)
        if len(quotes) < 2 or found is None or found == shown:
            continue
        shown = found
        (bid, buyer), (ask, seller) = found
        print(f"bid {bid} at {buyer}, ask {ask} at {seller}, spread {ask - bid:f}")
        count -= 1
        if not count:
            return


async def main(count=8):
    async with (
        serve("binance", symbols=[SYMBOL], seed=7, rate=50) as binance,
        serve("bybit", symbols=[SYMBOL], seed=8, rate=50) as bybit,
    ):
        stack = Stack(
            feeds=[FeedSpec(venue, [SYMBOL], ["quotes"]) for venue in ("binance", "bybit")],
            venues={"binance": {"base_url": binance.url}, "bybit": {"base_url": bybit.url}},
        )
        async with tapeloom.open(stack) as stream:
            await watch(stream, count)


if __name__ == "__main__":
    anyio.run(main)
