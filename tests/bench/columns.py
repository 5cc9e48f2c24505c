"""Events to Arrow columns and back: µs an event for each class, and the ratio to bare pyarrow.

The floor is pyarrow alone: `pa.array` for every column of the batch, with its final type, from lists of
values that lie ready. It checks nothing, and stores some long numbers wrongly. Only the ratios count.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
from tapeloom.events import Bar, Book, Quote, Trade
from tapeloom.events.base import BaseEvent
from tapeloom_columns import record_batches, to_events

START = 1_700_000_000_000_000_000
SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT")


def price(chance: random.Random) -> Decimal:
    """Return a price with two decimals."""
    return Decimal(f"{chance.randint(1, 99_999)}.{chance.randint(0, 99):02}")


def size(chance: random.Random) -> Decimal:
    """Return a size with eight decimals."""
    return Decimal(f"{chance.randint(0, 9)}.{chance.randint(1, 99_999_999):08}")


def trades(count: int, chance: random.Random) -> list[BaseEvent]:
    """Return numbered trades of three symbols."""
    return [
        Trade("binance", chance.choice(SYMBOLS), START + n, START + n + 5, price(chance),
              size(chance), chance.choice(("buy", "sell")), n)
        for n in range(count)
    ]  # fmt: skip


def quotes(count: int, chance: random.Random) -> list[BaseEvent]:
    """Return numbered quotes of three symbols."""
    return [
        Quote("binance", chance.choice(SYMBOLS), START + n, START + n + 5, price(chance),
              size(chance), price(chance), size(chance), n)
        for n in range(count)
    ]  # fmt: skip


def books(count: int, chance: random.Random) -> list[BaseEvent]:
    """Return deltas of 18 levels a side, as texts."""

    def levels() -> list[list[str]]:
        return [[str(price(chance)), str(size(chance))] for _ in range(18)]

    return [
        Book("binance", "BTC/USDT", START + n, START + n + 5, "delta", levels(), levels(), n, n)
        for n in range(count)
    ]


def bars(count: int, chance: random.Random) -> list[BaseEvent]:
    """Return bars of one minute, with products of ten decimals."""
    return [
        Bar("binance", chance.choice(SYMBOLS), START + n, START + n + 5, "1m",
            *(price(chance) for _ in range(4)), size(chance), price(chance) * size(chance),
            size(chance), price(chance) * size(chance), n)
        for n in range(count)
    ]  # fmt: skip


def best(rounds: int, count: int, call: Callable[[], Any]) -> float:
    """Return µs an event of the fastest round: whatever else runs can only make a round longer."""
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return min(took) / count * 1e6


def floor(batch: pa.RecordBatch, events: Sequence[BaseEvent]) -> Callable[[], Any]:
    """Return a function that makes the same columns with bare pyarrow."""
    ready: list[tuple[list[Any], pa.DataType]] = []
    for field in batch.schema:
        column = batch[field.name]
        if pa.types.is_timestamp(field.type):
            values = column.cast(pa.int64()).to_pylist()
        elif pa.types.is_string(field.type) or field.name == "seq":
            values = column.to_pylist()
        elif pa.types.is_list(field.type):
            values = [[*map(tuple, getattr(event, field.name))] for event in events]
        else:  # numbers as the venue wrote them, and texts that are equal are the same object
            values = [getattr(event, field.name) for event in events]
        ready.append((values, field.type))
    return lambda: [pa.array(values, kind) for values, kind in ready]


def main(report: Callable[[str], None] = print) -> None:
    """Measure every class."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    report(
        f"{'events':<8} {'rows':>5} {'floor us':>9} {'columns us':>11} {'ratio':>6}"
        f" {'back us':>8} {'bytes a row':>12}"
    )
    for make, sizes in (
        (trades, (64, 256, 4096)), (quotes, (64, 4096)), (books, (64, 1024)), (bars, (64, 4096)),
    ):  # fmt: skip
        for count in sizes:
            events = make(count, random.Random(1))
            (batch,) = record_batches(events)
            assert to_events(batch) == events
            base = best(args.rounds, count, floor(batch, events))
            ours = best(args.rounds, count, lambda events=events: record_batches(events))  # type: ignore[misc]
            back = best(args.rounds // 4, count, lambda batch=batch: to_events(batch))  # type: ignore[misc]
            report(
                f"{make.__name__:<8} {count:>5} {base:>9.2f} {ours:>11.2f} {ours / base:>6.2f}"
                f" {back:>8.2f} {batch.nbytes / count:>12.0f}"
            )


if __name__ == "__main__":
    main()
