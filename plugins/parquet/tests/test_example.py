"""The example of the documentation runs, and stores what it prints."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "docs/examples/store_parquet.py"

pytest.importorskip("tapeloom_bars")
pytest.importorskip("tapeloom_binance")


def test_the_example_prints_trades_and_bars_of_both_symbols(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runpy.run_path(str(EXAMPLE))["main"](str(tmp_path / "data"))

    lines = capsys.readouterr().out.splitlines()[-6:]  # after those of the log
    counts = dict(line.split() for line in lines[:2])
    assert set(counts) == {"BTC/USDT", "ETH/USDT"}
    assert all(int(count) > 20 for count in counts.values())
    assert {line.split()[2] for line in lines[2:]} <= {"BTC/USDT", "ETH/USDT"}
