"""The example of the documentation runs, and reads back what it stored."""

from __future__ import annotations

import runpy
from pathlib import Path

import anyio
import pytest
from tapeloom_testing.services import NatsServer

EXAMPLE = Path(__file__).parents[3] / "docs/examples/store_nats.py"

pytest.importorskip("tapeloom_bars")
pytest.importorskip("tapeloom_binance")


def test_the_example_prints_bars_of_both_symbols_and_the_numbers_of_events(
    server: NatsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    anyio.run(runpy.run_path(str(EXAMPLE))["main"], server.url, 3)
    *bars, counts = [line for line in capsys.readouterr().out.splitlines() if "[" not in line]

    assert {line.split()[3] for line in bars} == {"BTC/USDT", "ETH/USDT"}
    assert " × trade" in counts
    assert " × bar" in counts
