"""When journals become files, which files, and what the sink refuses."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from attrs import frozen
from tapeloom import Bar, Trade
from tapeloom.errors import BatchRefused, SinkRefused, SinkUnavailable
from tapeloom.events import Event
from tapeloom.plugin import SinkBatch, SinkRun
from tapeloom_parquet import ParquetSink, Settings, events, journal, publish_leftovers

EPOCH = 1_700_000_000_000_000_000
DAY = 86_400_000_000_000
MIDNIGHT = EPOCH - EPOCH % DAY


def trade(n: int, ts: int = EPOCH, venue: str = "binance", price: str = "1.5") -> Trade:
    return Trade(venue, "BTC/USDT", ts, ts, Decimal(price), Decimal(1), "buy", n)


@frozen
class Opened:
    """A sink that is open, and the time on its clock."""

    sink: ParquetSink
    path: Path
    now: list[float]

    def write(self, first: int, *batch: Event) -> None:
        self.sink.write(SinkBatch(EPOCH, first, batch))

    def files(self) -> list[str]:
        found = self.path.glob("type=*/**/*.parquet")
        return sorted(path.relative_to(self.path).as_posix() for path in found)

    def journals(self) -> list[Path]:
        return list(self.path.glob("_tapeloom/*/*.journal"))


def opened(path: Path, **settings: Any) -> Opened:
    now = [0.0]
    sink = ParquetSink(Settings(path=str(path), **settings), lambda: now[0])
    sink.open(SinkRun("sink", EPOCH))
    return Opened(sink, path, now)


def test_a_record_that_the_disk_takes_in_pieces_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, sizes = os.writev, []

    def in_pieces(descriptor: int, views: Sequence[memoryview]) -> int:
        sizes.append(sum(map(len, views)))
        return whole(descriptor, [b"".join(views)[:500]])

    monkeypatch.setattr(os, "writev", in_pieces)
    store = opened(tmp_path)
    prices = [Decimal(1)] * 5
    bar = Bar("binance", "BTC/USDT", EPOCH, EPOCH, "1m", *prices, None, None, None, None, False)
    store.write(1, trade(1), trade(2), bar)
    records, _ = journal.read(store.journals()[0])

    assert [record.last for record in records] == [3]
    assert len(sizes) > 3
    assert len({*sizes}) == len(sizes)


OPENS = """
import sys
from tapeloom.plugin import SinkRun
from tapeloom_parquet import ParquetSink, Settings
sink = ParquetSink(Settings(path=sys.argv[1]))
before = {*sys.modules}
sink.open(SinkRun("sink", 1))
print(*sorted({*sys.modules} - before))
"""


def test_opening_imports_nothing(tmp_path: Path) -> None:
    """The store has a limited time to open; imports take longer than all else on a busy machine."""
    pytest.importorskip("pandas")
    command = [sys.executable, "-c", OPENS, str(tmp_path / "data")]
    result = subprocess.run(command, check=True, capture_output=True, text=True)

    assert result.stdout.split() == []


def test_events_are_in_a_journal_until_they_are_as_old_as_max_age(tmp_path: Path) -> None:
    store = opened(tmp_path, max_age="60s")
    store.write(1, trade(1))
    store.now[0] = 59.9
    store.write(2, trade(2))
    before = store.files(), len(store.journals())
    store.now[0] = 60.0
    store.write(3, trade(3))

    assert before == ([], 1)
    assert len(store.files()) == 1
    assert store.journals() == []
    assert [event.id for event in events(tmp_path, Trade)] == [1, 2, 3]


def test_the_events_of_an_idle_stream_are_in_files_at_max_age(tmp_path: Path) -> None:
    store = opened(tmp_path, max_age="60s")
    store.sink.idle()
    store.write(1, trade(1))
    store.now[0] = 59.9
    store.sink.idle()
    before = store.files(), len(store.journals())
    store.now[0] = 60.0
    store.sink.idle()
    after = len(store.files()), store.journals()
    store.write(2, trade(2))
    store.sink.close()

    assert before == ([], 1)
    assert after == (1, [])
    assert [event.id for event in events(tmp_path, Trade)] == [1, 2]


def test_a_journal_becomes_files_when_it_has_max_size(tmp_path: Path) -> None:
    store = opened(tmp_path, max_size="64kB")
    for first in range(1, 2000, 100):
        store.write(first, *(trade(n) for n in range(first, first + 100)))
        assert sum(path.stat().st_size for path in store.journals()) < 64_000

    assert len(store.files()) >= 3


def test_files_lie_in_folders_by_type_venue_and_day_of_the_event(tmp_path: Path) -> None:
    store = opened(tmp_path)
    numbers = dict.fromkeys(("quote_volume", "buy_quote_volume"), Decimal("1E-30"))
    prices = dict.fromkeys(("open", "high", "low", "close", "volume", "buy_volume"), Decimal(1))
    bar = Bar("a/b", "X", -1, 0, "1m", **prices, **numbers, trades=1)
    store.write(1, trade(1, MIDNIGHT - 1), trade(2, MIDNIGHT), bar, trade(4, MIDNIGHT, "bybit"))
    store.sink.close()
    name = "sink-01700000000000000000-000000000001.parquet"

    assert store.files() == [
        f"type=bar/venue=a%2Fb/date=1969-12-31/{name}",
        f"type=trade/venue=binance/date=2023-11-13/{name}",
        f"type=trade/venue=binance/date=2023-11-14/{name}",
        f"type=trade/venue=bybit/date=2023-11-14/{name}",
    ]
    assert list(events(tmp_path, Bar)) == [bar]


def test_row_groups_have_at_most_so_many_rows(tmp_path: Path) -> None:
    store = opened(tmp_path, row_group=1000)
    store.write(1, *(trade(n) for n in range(2500)))
    store.sink.close()
    file = pq.ParquetFile(next(tmp_path.glob("type=trade/*/*/*.parquet")))
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]

    assert [group.num_rows for group in groups] == [1000, 1000, 500]
    assert {group.column(0).compression for group in groups} == {"ZSTD"}


def test_a_number_that_does_not_fit_refuses_its_batch_and_nothing_of_it_is_stored(
    tmp_path: Path,
) -> None:
    store = opened(tmp_path)
    with pytest.raises(BatchRefused, match=r"trade\.price .*'1E\+30'"):
        store.write(1, trade(1), trade(2, price="1E+30"))
    store.sink.close()
    again = opened(tmp_path)
    again.write(1, trade(1))
    again.sink.close()

    assert [event.id for event in events(tmp_path, Trade)] == [1]


def test_after_a_refused_batch_the_journal_goes_on_instead_of_making_small_files(
    tmp_path: Path,
) -> None:
    store = opened(tmp_path)
    store.write(1, trade(1))
    with pytest.raises(BatchRefused):
        store.write(2, trade(2, price="1E+30"))
    store.sink.close()
    resume = store.sink.open(SinkRun("sink", EPOCH))
    store.write(2, trade(2))
    store.sink.close()

    assert resume.last == 1
    assert len(store.files()) == 1
    assert [event.id for event in events(tmp_path, Trade)] == [1, 2]


def test_the_same_sink_of_another_process_is_refused_and_another_name_is_not(
    tmp_path: Path,
) -> None:
    store = opened(tmp_path)
    with pytest.raises(SinkRefused, match="used by the sink 'sink' of another process"):
        opened(tmp_path)
    other = ParquetSink(Settings(path=str(tmp_path)))
    assert other.open(SinkRun("sink-2", EPOCH)).last == 0
    other.close()
    store.sink.close()


def test_files_without_the_state_of_their_sink_are_refused(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.write(1, trade(1))
    store.sink.close()
    next(tmp_path.glob("_tapeloom/*/state.json")).unlink()

    with pytest.raises(SinkRefused, match="but not its state"):
        opened(tmp_path)
    ParquetSink(Settings(path=str(tmp_path))).open(SinkRun("sin", EPOCH))  # of another name


def test_a_journal_that_its_disk_has_changed_is_refused_and_not_cut(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.write(1, trade(1))
    store.write(2, trade(2))
    store.sink._succeeded = False  # as after an error: the journal stays
    store.sink.close()
    (journal,) = store.journals()
    content = bytearray(journal.read_bytes())
    content[200] ^= 1
    journal.write_bytes(content)

    with pytest.raises(SinkRefused, match=r"is damaged at byte \d+"):
        opened(tmp_path)


def test_leftovers_of_a_killed_process_are_published_and_those_of_a_running_one_are_not(
    tmp_path: Path,
) -> None:
    store = opened(tmp_path)
    store.write(1, trade(1))
    while_it_runs = publish_leftovers(tmp_path)
    store.sink._succeeded = False
    store.sink.close()

    assert while_it_runs == 0
    assert publish_leftovers(tmp_path) == 1
    assert [event.id for event in events(tmp_path, Trade)] == [1]
    assert ParquetSink(Settings(path=str(tmp_path))).open(SinkRun("sink", EPOCH)).last == 1


def test_columns_that_cannot_be_read_together_with_those_of_today_are_refused(
    tmp_path: Path,
) -> None:
    store = opened(tmp_path)
    store.write(1, trade(1))
    store.sink.close()
    file = next(tmp_path.glob("type=trade/*/*/*.parquet"))
    table = pq.read_table(file, partitioning=None)
    number = table.schema.get_field_index("price")
    pq.write_table(table.set_column(number, "price", table["price"].cast("float64")), file)

    for call in (lambda: opened(tmp_path), ParquetSink(Settings(path=str(tmp_path))).check):
        with pytest.raises(SinkRefused, match=r"trade\.price as decimal128.*empty folder"):
            call()


def test_a_full_disk_is_unavailable_and_afterwards_each_event_is_there_once(tmp_path: Path) -> None:
    """The limit of the size of files stands for the size of the disk: a write is cut, then refused."""
    store = opened(tmp_path)
    store.write(1, trade(1))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = store.journals()[0].stat().st_size
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
        with pytest.raises(SinkUnavailable, match=r"no space is left .* Free space"):
            store.write(2, trade(2))
        cut = store.journals()[0].stat().st_size
        store.sink.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    resume = store.sink.open(SinkRun("sink", EPOCH))
    store.write(2, trade(2))
    store.sink.close()

    assert cut == size + 100  # half a record was written
    assert resume.last == 1
    assert [event.id for event in events(tmp_path, Trade)] == [1, 2]


_AS_NOBODY = """
import os, sys
from tapeloom_parquet import ParquetSink, Settings
from tapeloom.errors import SinkRefused
from tapeloom.plugin import SinkRun
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
sink = ParquetSink(Settings(path=sys.argv[1]))
for call in (sink.check, lambda: sink.open(SinkRun("sink", 1))):
    try:
        call()
    except SinkRefused as error:
        print(error)
"""


def test_a_read_only_folder_is_refused_by_check_and_at_run_time(tmp_path: Path) -> None:
    """As root every folder can be written, so the test is another user then."""
    folder = tmp_path / "data"
    if os.getuid() == 0:
        for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
            parent.chmod(0o755)
    folder.mkdir(mode=0o555)
    code = [sys.executable, "-c", _AS_NOBODY, str(folder)]
    result = subprocess.run(code, capture_output=True, text=True, cwd="/", env=os.environ)
    lines = result.stdout.splitlines()

    assert len(lines) == 2, result.stderr
    assert all(f"cannot write in {str(folder)!r}" in line or "Permission" in line for line in lines)
    assert all("Give this user the right to write there" in line for line in lines)


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ({"path": " "}, "the path of a folder"),
        ({"max_age": "10ms"}, "1s or more"),
        ({"max_size": "1kB"}, "64kB or more"),
        ({"row_group": 10}, "1000 or more"),
    ],
)
def test_a_setting_that_cannot_work_says_what_to_write(wrong: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        Settings(**wrong)
