"""The settings: what is refused, and what the text of a session means."""

from __future__ import annotations

from datetime import datetime

import pytest
from tapeloom import Secret
from tapeloom_metrics import Settings
from tapeloom_metrics.sessions import in_session, parse_session


def test_a_server_that_other_machines_can_reach_needs_a_token() -> None:
    with pytest.raises(ValueError, match=r"host '0\.0\.0\.0' can be reached by other machines"):
        Settings(host="0.0.0.0")

    assert Settings(host="0.0.0.0", token=Secret("an-obvious-fake")).port == 9464


@pytest.mark.parametrize(
    "text",
    ["alpaca", "alpaca 09:30-16:00 UTC", "alpaca Mon-Fri 9-16 UTC", "alpaca Mon 09:30-25:00 UTC",
     "alpaca Mon 09:30-16:00 Mars/Olympus", 5, None],
)  # fmt: skip
def test_a_session_that_cannot_be_read_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match=r"alpaca Mon-Fri 09:30-16:00 America/New_York"):
        Settings(sessions=[text])


def ns(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp()) * 1_000_000_000


@pytest.mark.parametrize(
    ("session", "time", "is_open"),
    [
        ("alpaca Mon-Fri 09:30-16:00 America/New_York", "2026-11-30T09:29:59-05:00", False),
        ("alpaca Mon-Fri 09:30-16:00 America/New_York", "2026-11-30T09:30:00-05:00", True),
        ("alpaca Mon-Fri 09:30-16:00 America/New_York", "2026-07-30T13:30:00+00:00", True),
        ("alpaca Mon-Fri 09:30-16:00 America/New_York", "2026-11-30T16:00:00-05:00", False),
        ("alpaca Mon-Fri 09:30-16:00 America/New_York", "2026-11-29T12:00:00-05:00", False),
        ("alpaca Sun-Thu 18:00-17:00 America/Chicago", "2026-11-29T18:00:00-06:00", True),
        ("alpaca Sun-Thu 18:00-17:00 America/Chicago", "2026-12-04T16:59:00-06:00", True),
        ("alpaca Sun-Thu 18:00-17:00 America/Chicago", "2026-12-04T18:00:00-06:00", False),
        ("alpaca Sun-Thu 18:00-17:00 America/Chicago", "2026-11-29T12:00:00-06:00", False),
    ],
)
def test_a_session_is_open_in_its_hours(session: str, time: str, is_open: bool) -> None:
    sessions = [parse_session(session)]

    assert in_session(sessions, "alpaca", ns(time)) is is_open
    assert in_session(sessions, "binance", ns(time))
