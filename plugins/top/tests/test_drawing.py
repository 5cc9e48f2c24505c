"""What is drawn: the chart, the table of symbols, numbers and durations."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom_screens import Candle, LadderView, SymbolRow
from tapeloom_top import formats, pages
from tapeloom_top.chart import chart

SECOND = 1_000_000_000


def candle(start: int, first: str, high: str, low: str, last: str, **rest: Any) -> Candle:
    prices = map(Decimal, (first, high, low, last))
    return Candle(start * SECOND, *prices, Decimal(rest.pop("volume", 1)), 1, **rest)


def drawn(candles: list[Candle], width: int = 20, height: int = 9) -> list[str]:
    return chart(candles, SECOND, width, height).plain.split("\n")


def test_a_candle_is_a_body_of_half_blocks_with_wicks() -> None:
    lines = drawn([candle(0, "4", "10", "0", "8")])

    # Ten half lines: the body takes those from 8 to 4, the third to the seventh; the wicks the rest.
    assert [line[7] for line in lines[:5]] == ["│", "█", "█", "▀", "│"]


def test_time_runs_evenly_and_marks_stand_below_their_candle() -> None:
    lines = drawn(
        [
            candle(0, "1", "1", "1", "1", complete=False),
            candle(2, "2", "2", "2", "2", revised=True),
            candle(4, "3", "3", "3", "3", gap="unrecoverable"),
            candle(5, "3", "3", "3", "3", gap="filled"),
        ]
    )
    marks = next(line for line in lines if line.endswith("marks"))

    assert marks[:8] == "  i r x·"


@settings(deadline=None)  # a shared machine may halt for long
@given(
    prices=st.lists(
        st.tuples(*[st.decimals(-(10**9), 10**12, allow_nan=False, places=4)] * 4), max_size=40
    ),
    width=st.integers(1, 60),
    height=st.integers(1, 30),
)
def test_a_chart_fits_and_draws_each_candle(
    prices: list[tuple[Decimal, ...]], width: int, height: int
) -> None:
    candles = [
        candle(place, str(a), str(max(a, b, c, d)), str(min(a, b, c, d)), str(b))
        for place, (a, b, c, d) in enumerate(prices)
    ]
    lines = drawn(candles, width, height)

    if width >= 16 and height >= 7 and candles:
        assert len(lines) == height
        assert max(map(len, lines)) <= width
        columns = width - 12
        for column in range(max(columns - len(candles), 0), columns):
            assert any(line[column] in "█▀▄" for line in lines[: height - 4])
    else:
        assert len(lines) == 1


prices = st.none() | st.decimals(-(10**20), 10**20, allow_nan=False)
whole = st.integers(0, 10**12)


@settings(deadline=None)  # a shared machine may halt for long
@given(
    last=prices, bid=prices, ask=prices, rate=st.floats(0, 1e9), lag=st.none() | st.integers(-(10**18), 10**18),
    gaps=whole, width=st.integers(80, 200),
)  # fmt: skip
def test_the_table_of_symbols_fits_80_columns_whatever_the_numbers(
    last: Decimal | None, bid: Decimal | None, ask: Decimal | None, rate: float, lag: int | None,
    gaps: int, width: int,
) -> None:  # fmt: skip
    row = SymbolRow(
        "hyperliquid", "BTC/USD:BTC-261225-80000-C", last, 1, bid, ask, 1, 1, rate, rate, lag, lag,
        {"trades": 5}, gaps, gaps,
    )  # fmt: skip
    columns, keys, rows = pages.overview([row], width)

    assert sum(column.width + 1 for column in columns) <= width
    assert len(rows[0]) == len(columns)
    assert keys == [("hyperliquid", "BTC/USD:BTC-261225-80000-C")]


def test_a_ladder_has_asks_above_bids_and_the_spread_between() -> None:
    view = LadderView(
        "book", "synced", ((Decimal(9), Decimal(1)),), ((Decimal(11), Decimal(2)),), 0
    )
    lines = pages.ladder(view, 10, 29).plain.split("\n")

    assert [line.split()[0] for line in lines] == ["BOOK", "11", "spread", "9"]
    assert max(map(len, lines)) <= 29


def test_an_empty_ladder_has_its_spread_once() -> None:
    assert pages.ladder(LadderView("book", "waiting", (), (), 0), 10, 29).plain.count("spread") == 1


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (None, ""), (850_000, "850µs"), (12_000_000, "12ms"), (3_400_000_000, "3.4s"), (59 * SECOND, "59s"),
        (90 * SECOND, "1.5m"), (7_200 * SECOND, "2.0h"), (300_000 * SECOND, "3d"), (-5_000_000, "-5ms"),
    ],
)  # fmt: skip
def test_durations_are_short(ns: int | None, text: str) -> None:
    assert formats.duration(ns) == text


@pytest.mark.parametrize(
    ("value", "width", "text"),
    [
        ("61250.50000000", 11, "61250.5"), ("0.00000001", 11, "0.00000001"), ("123456.123456", 9, "123456.12"),
        ("1E+3", 5, "1000"), ("12345678901234", 8, "1.23e+13"),
    ],
)  # fmt: skip
def test_a_number_is_never_cut_before_its_point(value: str, width: int, text: str) -> None:
    assert formats.number(Decimal(value), width) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (7.53, "7.5"), (1234, "1234"), (56_700, "56.7k"), (1.2e6, "1.2M")]
)
def test_counts_are_short(value: float, text: str) -> None:
    assert formats.count(value) == text
