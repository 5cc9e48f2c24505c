"""The events of a market, for tests of stores: what a store may confuse, at random; and a way to write them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path

import anyio
from tapeloom.events import Bar, Book, Event, Gap, Quote, Reject, Status, Ticker, Trade
from tapeloom.harness import write_all
from tapeloom.plugin import Sink

from .store import HastyClock

#: `ts` of the first event, in ns.
START = 1_700_000_000_000_000_000
#: Numbers of events in the batches that core happens to cut.
SIZES = (1, 7, 64, 3, 200)


def market_events(count: int, seed: int = 1) -> list[Event]:
    """Return events of all types: equal twins in one millisecond, reused ids, late and backfilled events."""
    rng = random.Random(seed)
    made: list[Event] = []
    for index in range(count):
        ts = START + index // 3 * 1_000_000  # three events a millisecond
        late = ts - rng.randrange(3) * 5_000_000_000
        source = ("acme", rng.choice(["BTC/USDT", "ETH/USDT:USDT"]))
        price = Decimal("67123.4500") + index % 5
        ids = (index, f"text-{index}", "", index % 7)  # the last ones are used again
        kinds: list[Event] = [
            Trade(*source, ts, ts + 7, price, Decimal("0.10"), "buy", ids[index % 4]),
            Trade(*source, late, ts + 7, price, Decimal("1E-9"), "sell", index // 2),
            Trade(*source, late, ts, price, Decimal(1), "buy", 5, origin="backfill"),
            Quote(*source, ts, ts + 7, None, None, price, Decimal(2), None),
            Book(*source, ts, ts, "snapshot", [["1.0", "2"], ["0.9", "1"]], [], 1, index),
            Book(*source, ts, ts, "delta", [["1.0", "0"]], [["1.1", "3.00"]], 1, index, 3),
            Bar(
                *source, ts, ts, "1m", *(price,) * 4, price, None, price, None, None, index % 2 == 0
            ),
            Ticker(*source, ts, ts, price, None, None, None, price, None),
            Gap(*source, ts, ts, late, ts, "disconnect", 3, "open", "trades", "a"),
            Status(*source, ts, ts, "notice", "line\nbreak \x00 ü"),
        ]
        event = rng.choice(kinds)
        made.append(event)
        if index % 10 == 0:
            made.append(event)  # an equal twin
        if index % 25 == 0:
            made.append(Reject(*source, ts, ts, "crossed", "bid 2 ask 1", event, "trades"))
    return made[:count]


def write_events(
    sink: Sink,
    events: Sequence[Event],
    *,
    folder: Path,
    epoch: int = START,
    name: str = "store",
    sizes: Iterable[int] = SIZES,
) -> Counter[str]:
    """Write events as core does: open, write, and after each error open again, at once, and continue.

    Return the counters. What the store refuses is set aside in *folder*. Raises SinkRefused.
    """

    async def run() -> Counter[str]:
        return await write_all(
            sink, events, epoch=epoch, folder=folder, name=name, sizes=sizes, clock=HastyClock()
        )

    return anyio.run(run)
