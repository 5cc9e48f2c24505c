from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tapeloom.units import duration_ns, fraction, retry_after


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
def test_a_duration_is_parsed_to_nanoseconds(text: str | int, ns: int) -> None:
    assert duration_ns(text) == ns


@pytest.mark.parametrize(
    "text", ["", "1", "s", "1.5s", "-1s", "1M", "1 min", "1s ", " 1s", "1m30s"]
)
def test_an_invalid_duration_raises_an_error_with_examples(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        duration_ns(text)

    assert str(caught.value) == (
        f"{text!r} is not a duration. Write a whole number and a unit: '500ms', '1m', '4h', '1d'."
    )


@pytest.mark.parametrize("value", [True, 1.5, None, ["1s"]])
def test_only_text_and_whole_numbers_are_durations(value: object) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
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
def test_an_invalid_fraction_raises_an_error_with_examples(text: str | float) -> None:
    with pytest.raises(ValueError) as caught:
        fraction(text)

    assert str(caught.value) == f"{text!r} is not a fraction. Write '10%' or 0.1."


@pytest.mark.parametrize(
    ("number", "problem"),
    [
        (10.0, "10 is 1000%. Write '10%', or '1000%' if that is meant."),
        ("1.50", "1.5 is 150%. Write '1.5%', or '150%' if that is meant."),
    ],
)
def test_a_fraction_above_1_needs_the_percent_sign(number: str | float, problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        fraction(number)

    assert str(caught.value) == problem
    assert (fraction(1), fraction("1000%")) == (1, 10)


NOW = 1_700_000_000 * 1_000_000_000  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": " 0 "}, 0.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:14:20 GMT"}, 60.0),
        ({"retry-after": "Tuesday, 14-Nov-23 22:14:20 GMT"}, 60.0),
        ({"retry-after": "Tue Nov 14 22:14:20 2023"}, 60.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:00:00 GMT"}, 0.0),
        (
            {
                "retry-after": "Wed, 15 Nov 2023 10:00:30 GMT",
                "Date": "Wed, 15 Nov 2023 10:00:00 GMT",
            },
            30.0,
        ),
        ({"retry-after": "Wed, 15 Nov 2023 22:13:20 GMT", "date": "today"}, 86_400.0),
        ({"retry-after": "9" * 400}, float("inf")),
        ({"retry-after": "²"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Tue, 14 Nov 99999 22:00:00 GMT"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ],
)
def test_retry_after_is_parsed_in_every_format(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after(headers, NOW) == seconds


@given(st.text(max_size=40), st.text(max_size=40))
def test_parsing_retry_after_never_raises(after: str, date: str) -> None:
    seconds = retry_after({"retry-after": after, "date": date}, NOW)

    assert seconds is None or seconds >= 0
