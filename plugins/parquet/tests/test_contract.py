"""The contract of sinks: each event once, after lost acknowledgements, kills and restarts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tapeloom_parquet import publish_leftovers
from tapeloom_testing.contract import SinkContract

from .duckdb_rows import rows


@pytest.fixture(autouse=True)
def _children_without_pandas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide pandas from the processes that are killed: pyarrow imports it, which takes over a second."""
    (tmp_path / "pandas.py").write_text("raise ImportError('hidden by the test')\n")
    monkeypatch.syspath_prepend(tmp_path)


class TestParquet(SinkContract):
    sink = "parquet"

    def settings(self, folder: Path) -> Mapping[str, Any]:
        return {"path": str(folder / "data")}

    def stored(self, folder: Path) -> Sequence[Any]:
        publish_leftovers(folder / "data")  # what killed processes have left
        return rows(folder / "data")

    def failing(self, folder: Path) -> Mapping[str, Mapping[str, Any]]:
        (folder / "file").write_text("no folder")
        (folder / "other/symbol=BTC").mkdir(parents=True)
        return {
            "a file in place of the folder": {"path": str(folder / "file")},
            "a folder below a file": {"path": str(folder / "file/data")},
            "files of another program": {"path": str(folder / "other")},
        }
