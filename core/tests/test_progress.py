"""Progress of long work: a bar in a terminal, plain lines elsewhere, nothing if it is short."""

from __future__ import annotations

import io

import pytest
from tapeloom.cli import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def worked(out: io.StringIO, seconds: int, unit: str = "B") -> str:
    """Do a megabyte each second, of 100; return what was shown."""
    now = 0
    with Progress("replay", unit, out=out, monotonic=lambda: float(now)) as progress:
        for now in range(seconds + 1):
            progress.update(now * 1_000_000, 100_000_000, "day 1")
            progress.update(now * 1_000_000, 100_000_000, "day 1")  # within the same second
    return out.getvalue()


def test_a_terminal_shows_a_bar_and_removes_it_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = worked(Terminal(), 25).split("\r")

    assert len(shown) == 27  # a drawing each second, and the removal
    assert shown[25] == (
        "replay █████░░░░░░░░░░░░░░░  25%  25.0 of 100.0 MB  1.0 MB/s  1 min left  day 1\x1b[K"
    )
    assert shown[26] == "\x1b[K"


def test_a_bar_is_cut_at_the_width_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")

    assert {len(part) for part in worked(Terminal(), 5).split("\r")[1:-1]} == {39 + len("\x1b[K")}


def test_a_file_has_a_plain_line_every_ten_seconds() -> None:
    lines = worked(io.StringIO(), 25, "files").splitlines()

    assert lines == [
        "replay ██░░░░░░░░░░░░░░░░░░  10%  10,000,000 of 100,000,000 files  1,000,000.0/s  2 min left  day 1",
        "replay ████░░░░░░░░░░░░░░░░  20%  20,000,000 of 100,000,000 files  1,000,000.0/s  1 min left  day 1",
    ]


@pytest.mark.parametrize("out", [Terminal(), io.StringIO()])
def test_short_work_shows_nothing(out: io.StringIO) -> None:
    assert worked(out, 0) == ""


def test_nothing_to_do_is_no_error() -> None:
    assert "0%" in Progress("compact", "files", out=io.StringIO()).line(0, 0)
