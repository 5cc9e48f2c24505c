"""The example of the documentation runs."""

from __future__ import annotations

import runpy
import socket
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "docs/examples/share_feed.py"

pytest.importorskip("tapeloom_bars")
pytest.importorskip("tapeloom_binance")


def test_three_programs_read_one_feed(capsys):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    runpy.run_path(str(EXAMPLE))["main"](6, port)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "[" not in line]
    counts = {name: int(count) for name, count in lines}

    assert counts["trades"] > 50
    assert counts["quotes"] > 10
    assert counts["bars"] >= 2
