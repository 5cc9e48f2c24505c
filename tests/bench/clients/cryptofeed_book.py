"""cryptofeed: the changes of a book, kept, and its best ten levels a side read after each."""

from __future__ import annotations

from cryptofeed.connection import RestEndpoint, Routes
from cryptofeed.defines import L2_BOOK
from cryptofeed.exchanges import Binance
from cryptofeed_ import given, meter, run

given_rest = f"http{given.url.removeprefix('ws')}"
Binance.rest_endpoints = [
    RestEndpoint(
        given_rest, routes=Routes("/api/v3/exchangeInfo", l2book="/api/v3/depth?symbol={}&limit={}")
    )
]


async def read(book: object, received: float) -> None:
    for side in (book.book.bids, book.book.asks):
        for n in range(10):
            side.index(n)
    if book.delta:
        meter.take(1)


run(L2_BOOK, read, ["BTC-USDT"])
