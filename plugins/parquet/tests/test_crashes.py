"""Kill −9 at each step on disk: afterwards each event is in the files once."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tapeloom import Trade
from tapeloom.plugin import SinkRun
from tapeloom_parquet import ParquetSink, Settings

from .crashes import COUNT, EPOCH, some_events
from .duckdb_rows import rows

EXPECTED = [(event.type, event.recv, n) for n, event in enumerate(some_events(), 1)]

#: The numbers of the events that are compacted.
BINANCE = {
    n
    for n, event in enumerate(some_events(), 1)
    if isinstance(event, Trade) and event.venue == "binance"
}


def killed(folder: Path, work: str) -> list[tuple[int, Path]]:
    """Return the steps at which a process was killed, and the datasets that were completed then."""
    (folder / "pandas.py").write_text("raise ImportError('hidden by the test')\n")
    script = Path(__file__).with_name("crashes.py")
    result = subprocess.run(
        [sys.executable, str(script), str(folder), work],
        capture_output=True, text=True, env={"PYTHONPATH": str(folder)},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [line.split(" ", 1) for line in result.stdout.splitlines()]
    return [(int(step), Path(path)) for step, path in lines]


def seen(folder: Path) -> list[tuple[Any, Any, Any]]:
    return [(row["type"], row["recv"], row["n"]) for row in rows(folder)]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder in memory, if there is such a disk: killed processes need no real one."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


@pytest.mark.slow
def test_a_process_killed_at_any_step_of_writing_has_stored_each_event_once(folder: Path) -> None:
    results = killed(folder, "write")

    assert len(results) > 60  # so many steps are there
    for step, data in results:
        assert seen(data) == EXPECTED, f"killed at step {step}"
        sink = ParquetSink(Settings(path=str(data)))
        resume = sink.open(SinkRun("crashed", EPOCH))
        sink.close()
        assert (resume.last, dict(resume.positions)) == (COUNT, {"position": str(COUNT)}), step


@pytest.mark.slow
def test_a_compaction_killed_at_any_step_shows_no_row_twice_and_can_be_completed(
    folder: Path,
) -> None:
    results = killed(folder, "compact")
    partly = 0
    expected = [row for row in EXPECTED if row[2] in BINANCE]
    for step, data in results:
        if step:
            left = Counter(seen(data / "killed"))
            assert not left - Counter(expected), f"doubled after a kill at step {step}"
            partly += left != Counter(expected)
        assert seen(data) == expected, f"killed at step {step}"
        files = list(data.glob("type=trade/*/*/*.parquet"))
        assert len(files) == 2, f"not compacted after a kill at step {step}"
        assert not [path for path in (data / "_tapeloom/compact").iterdir() if path.is_dir()]

    assert len(results) > 30
    assert partly == 2  # between the two renames, of either partition
