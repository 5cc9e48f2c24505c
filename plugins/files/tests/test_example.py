"""The example of the documentation runs, and stores what it prints."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "docs/examples/store_files.py"

pytest.importorskip("tapeloom_bars")
pytest.importorskip("tapeloom_binance")


def test_the_example_counts_the_stored_events(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runpy.run_path(str(EXAMPLE))["main"](str(tmp_path / "events"))

    lines = capsys.readouterr().out.splitlines()
    counts = dict(line.split() for line in lines if len(line.split()) == 2)
    assert int(counts["trade"]) > 40
    assert int(counts["bar"]) >= 2
    assert list(tmp_path.glob("events/*.part")) == []
