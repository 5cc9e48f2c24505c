"""The example of the documentation runs, and writes what it prints."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "docs/examples/store_kafka.py"

pytest.importorskip("tapeloom_bars")
pytest.importorskip("tapeloom_binance")


def test_the_example_prints_trades_and_bars_of_both_symbols(capsys):
    runpy.run_path(str(EXAMPLE))["main"]("", 2)
    lines = [line for line in capsys.readouterr().out.splitlines() if "[" not in line]

    assert int(lines[0].split()[0]) > 50
    assert {line.split()[2] for line in lines[1:]} == {"BTC/USDT", "ETH/USDT"}
