"""tapeloom: the changes of a book, kept, and its best ten levels a side after each."""

from __future__ import annotations

import anyio
import tapeloom
from meter import Meter, arguments
from tapeloom import Book

given = arguments(("loop", "asyncio"))
meter = Meter(given)


async def main() -> None:
    feed = {
        "venue": "binance", "market": "spot", "symbols": ["BTC/USDT"], "channels": ["book"],
        "stages": ["quality", "books"],
    }  # fmt: skip
    stack = {
        "feed": [feed],
        "venue": {"binance": {"base_url": given.url}},
        # Whenever one of the best ten changes, they come as an event.
        "stage": {"books": {"depth": 10, "quotes": False}},
    }
    async with tapeloom.open(stack) as stream:
        async for batch in stream.batches():
            changes = [event for event in batch if type(event) is Book and event.kind == "delta"]
            if changes:
                meter.take(len(changes))


options = {"use_uvloop": True} if given.loop == "uvloop" else {}
anyio.run(main, backend_options=options)
