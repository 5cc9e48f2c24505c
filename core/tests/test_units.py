from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tapeloom.units import duration_ns, fraction


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("7ns", 7),
        ("7us", 7_000),
        ("500ms", 500_000_000),
        ("1s", 1_000_000_000),
        ("1 m", 60_000_000_000),
        ("4h", 14_400_000_000_000),
        ("1d", 86_400_000_000_000),
        ("1w", 604_800_000_000_000),
        ("0s", 0),
        (250, 250),
    ],
)
def test_duration_is_read_as_nanoseconds(text: str | int, ns: int) -> None:
    assert duration_ns(text) == ns


@pytest.mark.parametrize(
    "text", ["", "1", "s", "1.5s", "-1s", "1M", "1 min", "1s ", " 1s", "1m30s"]
)
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        duration_ns(text)

    assert str(caught.value) == (
        f"{text!r} is no duration. Write a whole number and a unit: '500ms', '1m', '4h', '1d'."
    )


@pytest.mark.parametrize("value", [True, 1.5, None, ["1s"]])
def test_only_text_and_whole_numbers_are_durations(value: object) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        duration_ns(value)  # type: ignore[arg-type]


@given(st.integers(0, 10**9))
def test_sixty_seconds_are_a_minute_at_any_number(number: int) -> None:
    assert duration_ns(f"{60 * number}s") == duration_ns(f"{number}m")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10%", "0.1"),
        ("0.5 %", "0.005"),
        ("0.1", "0.1"),
        (0.3, "0.3"),
        (1, "1"),
        (Decimal("0.25"), "0.25"),
        ("-2%", "-0.02"),
    ],
)
def test_fraction_is_exact(text: str | float | Decimal, value: str) -> None:
    assert fraction(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "%", "ten", "-inf", "inf%", "1%%", True, float("nan")])
def test_what_is_no_fraction_is_refused_with_examples(text: str | float) -> None:
    with pytest.raises(ValueError) as caught:
        fraction(text)

    assert str(caught.value) == f"{text!r} is no fraction. Write '10%' or 0.1."
