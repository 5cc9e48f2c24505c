"""The lines of the documentation by which DuckDB, polars and pandas read the files, while they are written."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from tapeloom import Bar, Trade
from tapeloom.cli._main import main
from tapeloom.errors import TapeloomError
from tapeloom.plugin import SinkBatch, SinkRun
from tapeloom_parquet import ParquetSink, Settings, dataset, events
from tapeloom_parquet.reading import connect

EPOCH = 1_700_000_000_123_456_789
PAGE = Path(__file__).parents[3] / "docs/howto/store-in-parquet.md"
#: More digits than a 64-bit float has.
PRICE, VOLUME = Decimal("12345678901234567890.123456789012345678"), Decimal("1E-30")


def trades(count: int) -> list[Trade]:
    return [
        Trade("binance", "BTC/USDT", EPOCH + n, EPOCH, PRICE, Decimal(1), "buy", n)
        for n in range(count)
    ]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ParquetSink:
    """Return a sink that is writing to the folder `data`, which has a file and a journal."""
    monkeypatch.chdir(tmp_path)
    now = [0.0]
    sink = ParquetSink(Settings(path="data"), lambda: now[0])
    sink.open(SinkRun("sink", EPOCH))
    numbers = (PRICE, PRICE, PRICE, PRICE, Decimal(1), VOLUME, Decimal(1), None)
    sink.write(SinkBatch(EPOCH, 1, trades(5)))
    now[0] = 60.0
    sink.write(SinkBatch(EPOCH, 6, [Bar("binance", "BTC/USDT", EPOCH, 1, "1m", *numbers, 5)]))
    sink.write(SinkBatch(EPOCH, 7, trades(3)))  # stays in the journal
    return sink


def line(library: str) -> str:
    """Return the line of the documentation that reads with a library."""
    found = re.search(rf"^trades = {library}\..*$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert found, f"no line for {library}"
    return found[0]


def run(code: str) -> Any:
    space: dict[str, Any] = {"duckdb": duckdb, "pl": pl, "pd": pd}
    exec(code, space)
    return space["trades"]


def read_duckdb() -> list[Any]:
    return list(run(line("duckdb")).project("price, epoch_ns(ts), venue").fetchall())


def read_polars() -> list[Any]:
    frame = run(line("pl"))
    frame = frame.collect() if isinstance(frame, pl.LazyFrame) else frame
    return list(frame.select("price", pl.col("ts").dt.timestamp("ns"), "venue").iter_rows())


def read_pandas() -> list[Any]:
    frame = run(line("pd"))
    return [
        (row.price, row.ts.value, row.venue)
        for row in frame[["price", "ts", "venue"]].itertuples(index=False)
    ]


@pytest.mark.parametrize("read", [read_duckdb, read_polars, read_pandas])
def test_the_line_in_the_docs_reads_exact_numbers_and_times_while_the_sink_writes(
    read: Callable[[], list[Any]], data: ParquetSink
) -> None:
    during = sorted(read())
    data.close()
    after = sorted(read())

    assert during == [(PRICE, EPOCH + n, "binance") for n in range(5)]  # not what is in the journal
    assert len(after) == 8


def test_a_product_of_many_decimals_is_a_text_for_all_readers(data: ParquetSink) -> None:
    data.close()
    path = "data/type=bar/**/*.parquet"
    texts = [
        duckdb.sql(f"SELECT quote_volume FROM '{path}'").fetchall()[0],
        pl.scan_parquet(path).select("quote_volume").collect().row(0),
        tuple(pd.read_parquet("data/type=bar")["quote_volume"]),
    ]

    assert [Decimal(value) for (value,) in texts] == [VOLUME] * 3
    assert [bar.quote_volume for bar in events("data", Bar)] == [VOLUME]


def test_a_field_that_was_added_is_null_in_old_files_for_all_readers(data: ParquetSink) -> None:
    data.close()
    old = min(Path("data/type=trade").glob("*/*/*.parquet"))
    table = pq.read_table(old, partitioning=None).drop_columns(["origin"])
    pq.write_table(table, old)  # as if the class had no `origin` then
    expected = [None] * 5 + ["live"] * 3

    with connect("data") as connection:
        by_view = connection.sql("SELECT origin FROM trade ORDER BY n").fetchall()
    by_line = run(line("duckdb")).order("n").project("origin").fetchall()
    assert [value for (value,) in by_view] == [value for (value,) in by_line] == expected
    table = dataset("data", "trade").to_table()
    assert sorted(map(str, table["origin"].to_pylist())) == sorted(map(str, expected))
    frame = pl.from_arrow(dataset("data", "trade").to_table())
    assert isinstance(frame, pl.DataFrame)
    assert frame.sort("n")["origin"].to_list() == expected
    assert {event.origin for event in events("data", Trade)} == {"live", None}


def test_the_command_shows_a_query_and_says_what_is_still_in_the_journal(
    data: ParquetSink, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["parquet", "sql", "select count(*) as c, max(price) as p from trade", "data"])
    out, err = capsys.readouterr()

    assert code == 0
    assert str(PRICE) in out
    assert "3 newer events are not in files yet" in err


def test_the_command_says_what_is_wrong_with_a_query_or_a_folder(
    data: ParquetSink, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["parquet", "sql", "select * from trad", "data"]) == 1
    assert "trad does not exist" in capsys.readouterr().err
    assert main(["parquet", "sql", "select 1", "nowhere"]) == 1
    assert "expected folders `type=…` with files in 'nowhere'" in capsys.readouterr().err


def test_a_type_without_files_says_which_types_there_are(data: ParquetSink) -> None:
    with pytest.raises(TapeloomError, match="there are files of: bar, trade"):
        dataset("data", "quote")
