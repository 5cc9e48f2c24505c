"""What is drawn: candles, volume, marks of gaps and revisions; and the texts beside it, with all digits."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from tapeloom_screens import Candle, LadderView
from tapeloom_web import chart, tables

MINUTE = 60_000_000_000
START = 1_700_000_040 * 1_000_000_000


def candle(n: int, **changes: Any) -> Candle:
    one = Candle(
        START + n * MINUTE, Decimal(2), Decimal(4), Decimal(1), Decimal(3), Decimal("0.5"), 7
    )
    return evolve(one, **changes)


def series(*candles: Candle) -> dict[str, Any]:
    return chart.options(candles, MINUTE)["series"][0]  # type: ignore[no-any-return]


def test_a_candle_is_drawn_as_open_close_low_high_over_its_volume() -> None:
    made = chart.options([candle(0), candle(1, close=Decimal(1))], MINUTE)
    price, volume = made["series"]

    assert price["data"] == [[2.0, 3.0, 1.0, 4.0], [2.0, 1.0, 1.0, 4.0]]
    assert [bar["value"] for bar in volume["data"]] == [0.5, 0.5]
    assert [bar["itemStyle"]["color"] for bar in volume["data"]] == [
        chart.COLOURS["up"],
        chart.COLOURS["down"],
    ]
    assert made["xAxis"][0]["data"] == ["11-14 22:14", "11-14 22:15"]


def test_neighbours_with_a_gap_have_one_area_and_filled_gaps_another_colour() -> None:
    areas = series(
        candle(0), candle(1, gap="open"), candle(2, gap="unrecoverable"), candle(3, gap="filled"),
        candle(4), candle(5, gap="partial"),
    )["markArea"]["data"]  # fmt: skip
    found = [(left["xAxis"], right["xAxis"], left["itemStyle"]["color"]) for left, right in areas]

    assert found == [
        ("11-14 22:15", "11-14 22:16", chart.COLOURS["gap"]),
        ("11-14 22:17", "11-14 22:17", chart.COLOURS["filled"]),
        ("11-14 22:19", "11-14 22:19", chart.COLOURS["gap"]),
    ]


def test_revised_and_incomplete_candles_are_marked_at_their_high() -> None:
    points = series(candle(0), candle(1, revised=True), candle(2, complete=False))["markPoint"]

    assert [(point["coord"], point["name"]) for point in points["data"]] == [
        (["11-14 22:15", 4.0], "revised"),
        (["11-14 22:16", 4.0], "incomplete"),
    ]


def test_candles_that_lack_something_and_those_with_filled_gaps_are_counted_apart() -> None:
    candles = [candle(0, gap="filled"), candle(1, gap="partial"), candle(2), candle(3, gap="open")]

    assert chart.gaps_in(candles) == (2, 1)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=18))
def test_a_number_has_all_its_digits_and_no_zeros_at_its_end(value: Decimal) -> None:
    text = tables.number(value)

    assert Decimal(text) == value
    assert "E" not in text
    assert not ("." in text and text.endswith("0"))


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (None, "–"), (1_500_000, "1.5 ms"), (250_000_000, "250 ms"), (2_500_000_000, "2.5 s"),
        (125_000_000_000, "2 min"),
    ],
)  # fmt: skip
def test_a_duration_is_in_the_unit_that_suits_it(ns: int | None, text: str) -> None:
    assert tables.duration(ns) == text


def test_a_ladder_has_the_best_ask_next_to_the_best_bid() -> None:
    levels = tuple((Decimal(100 + n), Decimal(n + 1)) for n in range(3))
    bids = tuple((Decimal(99 - n), Decimal(4)) for n in range(3))
    asks, below = tables.ladder(LadderView("book", "synced", bids, levels, 0), 2)

    assert [row["price"] for row in asks] == ["101", "100"]
    assert [row["price"] for row in below] == ["99", "98"]
    assert [row["share"] for row in asks] == [50, 25]
