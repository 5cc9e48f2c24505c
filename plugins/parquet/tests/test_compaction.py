"""Compaction: fewer files, the same rows, while a sink writes."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tapeloom import Trade
from tapeloom.cli._main import main
from tapeloom.errors import SinkUnavailable
from tapeloom.plugin import SinkBatch, SinkRun
from tapeloom_parquet import ParquetSink, Settings, compact, disk, events
from tapeloom_parquet.layout import Layout

EPOCH = 1_700_000_000_000_000_000


def trade(n: int) -> Trade:
    return Trade("binance", "BTC/USDT", EPOCH, n, Decimal(n), Decimal(1), "buy", n)


def store(path: Path, *numbers: int, name: str = "sink") -> None:
    """Write each event as a file of its own."""
    for n in numbers:
        sink = ParquetSink(Settings(path=str(path)))
        sink.open(SinkRun(name, EPOCH))
        sink.write(SinkBatch(EPOCH, n, [trade(n)]))
        sink.close()


def files(path: Path) -> list[Path]:
    return sorted(path.glob("type=*/*/*/*.parquet"))


def stored(path: Path) -> list[int | str]:
    return [event.id for event in events(path, Trade)]


def test_small_files_are_joined_in_order_and_again_with_later_ones(tmp_path: Path) -> None:
    store(tmp_path, 1, 2, 3)
    (first,) = compact(tmp_path)
    again = compact(tmp_path)
    store(tmp_path, 4, 5)
    compact(tmp_path)

    assert (first.files_before, first.files_after, again) == (3, 1, [])
    assert len(files(tmp_path)) == 1
    assert stored(tmp_path) == [1, 2, 3, 4, 5]
    assert pq.ParquetFile(files(tmp_path)[0]).num_row_groups == 1


def test_files_of_the_target_size_are_left_as_they_are(tmp_path: Path) -> None:
    store(tmp_path, 1, 2, 3, 4)
    size = files(tmp_path)[0].stat().st_size

    assert compact(tmp_path, target=size) == []
    compact(tmp_path, target=size * 2 + 100)
    assert len(files(tmp_path)) == 2
    assert stored(tmp_path) == [1, 2, 3, 4]


def test_a_file_without_an_added_field_is_joined_with_nulls(tmp_path: Path) -> None:
    store(tmp_path, 1, 2)
    old = files(tmp_path)[0]
    pq.write_table(pq.read_table(old, partitioning=None).drop_columns(["origin"]), old)
    compact(tmp_path)
    table = pq.read_table(files(tmp_path)[0], partitioning=None)

    assert table["origin"].to_pylist() == [None, "live"]
    assert table.schema.metadata[b"tapeloom.type"] == b"trade"


def test_what_a_journal_may_still_replace_is_not_joined(tmp_path: Path) -> None:
    """A process died after its file had appeared, and before the journal was removed."""
    store(tmp_path, 1, 2)
    sink = ParquetSink(Settings(path=str(tmp_path)))
    sink.open(SinkRun("sink", EPOCH))
    sink.write(SinkBatch(EPOCH, 3, [trade(3)]))
    (journal,) = Layout(tmp_path).journals()
    content = journal.read_bytes()
    sink.close()
    state = next(tmp_path.glob("_tapeloom/*/state.json"))
    state.write_text(state.read_text().replace(f'"{EPOCH}":3', f'"{EPOCH}":2'))
    journal.write_bytes(content)
    compact(tmp_path)
    joined = stored(tmp_path)
    sink.open(SinkRun("sink", EPOCH))
    sink.close()

    assert sorted(joined) == sorted(stored(tmp_path)) == [1, 2, 3]


def test_a_file_that_appears_during_a_compaction_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path, 1, 2)
    real = disk.sync
    late = [3]

    def sync(path: Path) -> None:
        if path.name.startswith("joined-") and late:
            store(tmp_path, late.pop())
        real(path)

    monkeypatch.setattr(disk, "sync", sync)
    compact(tmp_path)

    assert late == []
    assert len(files(tmp_path)) == 2
    assert sorted(stored(tmp_path)) == [1, 2, 3]


def test_a_second_compaction_at_the_same_time_is_refused(tmp_path: Path) -> None:
    store(tmp_path, 1, 2)
    compactions = Layout(tmp_path).compactions
    compactions.mkdir()
    with (
        disk.lock(compactions / "lock", exclusive=True, wait=True),
        pytest.raises(SinkUnavailable, match="is being compacted by another process"),
    ):
        compact(tmp_path)
    assert len(files(tmp_path)) == 2


def test_the_command_says_what_it_has_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(tmp_path, 1, 2)

    assert main(["parquet", "compact", str(tmp_path)]) == 0
    assert "date=2023-11-14: 2 files are now 1" in capsys.readouterr().out
    assert main(["parquet", "compact", str(tmp_path / "nowhere")]) == 1
    assert "is not a dataset of tapeloom" in capsys.readouterr().err
    assert main(["parquet", "publish", str(tmp_path)]) == 0
    assert "0 journals published" in capsys.readouterr().out
