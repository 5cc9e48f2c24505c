"""Closed bars that a venue sends again: revisions are numbered, repeats are dropped."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
from tapeloom import Bar, Event, Trade
from tapeloom._stream.bar_revisions import BarRevisions
from tapeloom.plugin import TradeBatch

ONE = Decimal(1)


def bar(close: Any = 1, start: int = 60, symbol: str = "BTC/USD", **changes: Any) -> Bar:
    prices = ONE, ONE, ONE, Decimal(close), ONE
    fields: dict[str, Any] = {"closed": True, "channel": "klines:1m", "origin": "live"} | changes
    return Bar("acme", symbol, start, 99, "1m", *prices, None, None, None, 2, **fields)


def trade(number: int) -> Trade:
    return Trade("acme", "BTC/USD", 1, 1, ONE, ONE, "buy", number)


def numbered(*batches: list[Event]) -> tuple[list[Any], Counter[str]]:
    counters = Counter[str]()
    stage = BarRevisions(counters)
    return [
        (int(event.close), event.revision)
        for batch in batches
        for event in stage(batch)
        if isinstance(event, Bar)
    ], counters


def test_a_bar_confirmed_again_with_other_values_has_the_next_revision() -> None:
    got, _ = numbered([bar(1)], [bar(2), bar(3)], [bar(1, start=120)], [bar(1)])

    assert got == [(1, 0), (2, 1), (3, 2), (1, 0), (1, 3)]


def test_a_bar_confirmed_again_unchanged_is_counted_and_not_delivered() -> None:
    got, counters = numbered([bar(1)], [bar("1.0")], [bar(2)], [bar(2), bar(1, symbol="ETH/USD")])

    assert got == [(1, 0), (2, 1), (1, 0)]
    assert counters["repeats"] == 2


def test_a_fetched_bar_keeps_the_number_of_the_live_one() -> None:
    got, _ = numbered([bar(1)], [bar(2)], [bar(2, origin="backfill")], [bar(3, origin="backfill")])

    assert got == [(1, 0), (2, 1), (2, 1), (3, 2)]


def test_a_revision_by_the_venues_word_counts_from_there() -> None:
    got, _ = numbered([bar(1, revision=1)], [bar(2, revision=1)])

    assert got == [(1, 1), (2, 2)]


def test_forming_bars_and_other_events_pass_unchanged() -> None:
    forming, stage = bar(5, closed=False), BarRevisions(Counter())
    batch = [trade(1), forming, bar(5), forming, trade(2)]
    trades = TradeBatch([trade(1)], [0])

    assert stage(batch) == batch
    assert stage(trades) is trades


def test_only_the_latest_bars_of_a_subscription_are_remembered() -> None:
    stage = BarRevisions(Counter())
    for start in range(1000, 0, -1):
        stage([bar(1, start=start, origin="backfill")])
    kept = [start for start in (1, 990, 991, 1000) if stage([bar(1, start=start)]) == []]

    assert kept == [991, 1000]


@pytest.mark.parametrize("text", ["NaN", "sNaN", "Infinity"])
def test_invalid_numbers_raise_nothing(text: str) -> None:
    stage = BarRevisions(Counter())

    assert len([*stage([bar(1)]), *stage([bar(text)]), *stage([bar(2)])]) == 3
    assert stage([bar(text)])[0].revision == 3  # type: ignore[union-attr]
