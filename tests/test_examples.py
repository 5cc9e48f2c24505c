"""The examples of the documentation run, and print what they promise; the notebooks too."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from anyio.from_thread import start_blocking_portal
from nbclient import NotebookClient
from tapeloom_simulator import serve

EXAMPLES = Path(__file__).parents[1] / "docs/examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
#: The last lines that an example prints, as patterns of whole lines.
LINES = {
    "best_bid_ask": [r"bid [\d.]+ at \w+, ask [\d.]+ at \w+, spread -?[\d.]+"] * 8,
    "record_and_replay": [
        r"\d{3,} trades and \d+ bars in 3\.\d seconds",
        r"\d{3,} trades and \d+ bars in 0\.\d seconds",
        r"the same trades: True",
    ],
    "stall_alert": [
        r"ALERT: ETH/USDT: no trade for 2 seconds",
        r"ALERT: ETH/USDT: trades again after [23]\.\d seconds",
    ],
    "volume_bars": [r"\w+/USDT [\d.]+ [\d.]+ (1\.[5-9]|[2-9]\.)\d+ \d+ trades"] * 6,
}


#: Examples that the tests of a package run, with the server that they need.
BESIDE = ("store_", "share_feed")


def test_every_example_is_tested_here_or_beside_the_server_that_it_needs() -> None:
    scripts = {path.stem for path in EXAMPLES.glob("*.py")}

    assert {name for name in scripts if not name.startswith(BESIDE)} == set(LINES)


@pytest.mark.parametrize("example", LINES)
def test_an_example_prints_what_it_promises(example: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{example}.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if not line.startswith("20")]  # of the log
    pattern = "\n".join(LINES[example])

    assert done.returncode == 0, done.stderr
    assert re.fullmatch(pattern, "\n".join(lines)), done.stdout


@pytest.fixture
def simulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A simulated venue whose address the notebooks find in the environment."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(
            portal.call(
                lambda: serve(
                    "binance", symbols=["BTC/USDT", "ETH/USDT"], seed=7, rate=100, speed=10
                )
            )
        ) as simulation,
    ):
        monkeypatch.setenv("TAPELOOM_SIMULATOR", simulation.url)
        yield


@pytest.mark.usefixtures("simulator")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()  # raises the error of a cell
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]

    assert {output.output_type for output in outputs} >= {"execute_result"}
    assert len(outputs) > 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    cells = [
        cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"
    ]

    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    assert path.stat().st_size < 20_000
