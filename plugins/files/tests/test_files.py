"""Files rotate, crashes cut nothing off that was acknowledged, and errors name the remedy."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from tapeloom import Bar, Book, Reject, Trade
from tapeloom.errors import BatchRefused, SinkRefused, SinkUnavailable
from tapeloom.events import Event, decode
from tapeloom.plugin import SinkBatch, SinkRun
from tapeloom_files import FilesSink, Settings

from .crashes import COUNT, EPOCH, some_events
from .reading import content, stored


def trade(n: int) -> Trade:
    return Trade("binance", "BTC/USDT", EPOCH, n, Decimal("1.5"), Decimal(1), "buy", n)


@frozen
class Opened:
    """A sink that is open, and the time on its clock."""

    sink: FilesSink
    path: Path
    now: list[float]

    def write(self, first: int, *batch: Event) -> None:
        self.sink.write(SinkBatch(EPOCH, first, batch))

    def files(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir() if path.is_file())


SINKS: list[FilesSink] = []


@pytest.fixture(autouse=True)
def closed_sinks() -> Iterator[None]:
    """Close what a test has opened."""
    yield
    while SINKS:
        SINKS.pop().close()


def opened(path: Path, **settings: Any) -> Opened:
    now = [0.0]
    sink = FilesSink(Settings(path=str(path), **settings), lambda: now[0])
    SINKS.append(sink)
    sink.open(SinkRun("sink", EPOCH))
    return Opened(sink, path, now)


NAME = f"sink-{EPOCH:020d}-"


def test_a_file_has_its_final_name_when_it_is_as_old_as_rotate_every(tmp_path: Path) -> None:
    store = opened(tmp_path, rotate_every="1h")
    store.write(1, trade(1))
    store.now[0] = 3599.0
    store.write(2, trade(2))
    before = store.files()
    store.now[0] = 3600.0
    store.write(3, trade(3))
    after = store.files()
    store.write(4, trade(4))

    assert before == [f"{NAME}000000000001.jsonl.part"]
    assert after == [f"{NAME}000000000001.jsonl"]
    assert store.files() == [f"{NAME}000000000001.jsonl", f"{NAME}000000000004.jsonl.part"]


def test_a_file_has_its_final_name_when_it_has_rotate_size(tmp_path: Path) -> None:
    store = opened(tmp_path, rotate_size="4kB")
    for n in range(1, 101):
        store.write(n, trade(n))
    store.sink.close()
    sizes = [(tmp_path / name).stat().st_size for name in store.files()]

    assert all(4000 <= size < 4300 for size in sizes[:-1])
    assert len(sizes) > 3
    assert [row["id"] for row in stored(tmp_path)] == list(range(1, 101))


@pytest.mark.parametrize(("compression", "ending"), [("", ""), ("gzip", ".gz"), ("zstd", ".zst")])
def test_lines_are_the_events_in_their_order(compression: str, ending: str, tmp_path: Path) -> None:
    events = [trade(1), Reject("binance", "", 1, 2, "rule", "{\x00"), trade(3)]
    store = opened(tmp_path, compression=compression)
    store.write(1, *events[:2])
    store.write(3, *events[2:])
    store.sink.close()
    (name,) = store.files()
    lines = content(tmp_path / name).splitlines()

    assert name.endswith(f".jsonl{ending}")
    assert [decode(line) for line in lines] == events


def test_csv_has_a_file_for_each_type_with_its_fields_as_the_first_line(tmp_path: Path) -> None:
    prices = dict.fromkeys(("open", "high", "low", "close", "volume"), Decimal("1E+2"))
    others = dict.fromkeys(("quote_volume", "buy_volume", "buy_quote_volume", "trades"))
    bar = Bar("binance", "X", 1, 2, "1m", **prices, **others)
    book = Book("binance", "X", 1, 2, "delta", [("1.0", "0")], [])
    store = opened(tmp_path, format="csv")
    store.write(1, trade(1), bar)
    store.write(3, trade(3), book)
    store.sink.close()

    assert store.files() == [
        f"bar.{NAME}000000000001.csv", f"book.{NAME}000000000003.csv", f"trade.{NAME}000000000001.csv"
    ]  # fmt: skip
    head, first, *_ = (tmp_path / store.files()[0]).read_text().splitlines()
    assert head.startswith("venue,symbol,ts,recv,interval,open")
    assert head.endswith("epoch,n")
    assert '"1m",100,100,100,100,100,,,,,true,true,0' in first
    assert '"[[""1.0"",""0""]]"' in (tmp_path / store.files()[1]).read_text()


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
@pytest.mark.parametrize(("file_format", "compression"), [("jsonl", ""), ("csv", "zstd")])
def test_a_process_killed_at_any_step_has_stored_each_event_once(
    file_format: str, compression: str, folder: Path
) -> None:
    script = Path(__file__).with_name("crashes.py")
    code = [sys.executable, str(script), str(folder), file_format, compression]
    result = subprocess.run(code, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    steps = [line.split(" ", 1) for line in result.stdout.splitlines()]
    expected = [(event.type, event.recv) for event in some_events()]

    assert len(steps) > 30  # so many steps are there
    for step, path in steps:
        rows = [(row["type"], row["recv"]) for row in stored(Path(path))]
        assert rows == expected, f"killed at step {step}"
        sink = FilesSink(Settings(path=path))
        resume = sink.open(SinkRun("crashed", EPOCH))
        sink.close()
        assert (resume.last, dict(resume.positions)) == (COUNT, {"position": str(COUNT)}), step


def test_a_full_disk_is_unavailable_and_the_torn_line_is_cut_off(tmp_path: Path) -> None:
    """The limit of the size of files stands for the size of the disk: a write is cut, then refused."""
    store = opened(tmp_path)
    store.write(1, trade(1))
    file = tmp_path / store.files()[0]
    size = file.stat().st_size
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, hard))
        with pytest.raises(SinkUnavailable, match=r"cannot write .* Free space"):
            store.write(2, trade(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    torn = file.stat().st_size
    store.sink.close()
    resume = store.sink.open(SinkRun("sink", EPOCH))
    cut = file.stat().st_size
    store.write(2, trade(2))
    store.sink.close()

    assert (torn, cut, resume.last) == (size + 50, size, 1)
    assert [row["id"] for row in stored(tmp_path)] == [1, 2]


def test_a_text_that_utf_8_cannot_represent_refuses_its_batch(tmp_path: Path) -> None:
    store = opened(tmp_path)
    event = Trade("binance", "X", 1, 2, Decimal(1), Decimal(1), None, "\ud800")
    with pytest.raises(BatchRefused, match="UTF-8 cannot represent"):
        store.write(1, event)


def test_the_same_sink_of_another_process_is_refused(tmp_path: Path) -> None:
    opened(tmp_path)
    with pytest.raises(SinkRefused, match="used by another process"):
        opened(tmp_path)


def test_files_without_the_state_of_their_sink_are_refused(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.write(1, trade(1))
    store.sink.close()
    (tmp_path / "_tapeloom/sink.sqlite").unlink()

    with pytest.raises(SinkRefused, match="but not its state"):
        opened(tmp_path)


def test_a_state_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "_tapeloom").mkdir()
    (tmp_path / "_tapeloom/sink.sqlite").write_text("no database" * 1000)

    with pytest.raises(SinkRefused, match="is not a state of this sink"):
        opened(tmp_path)


_AS_NOBODY = """
import os, sys
from tapeloom_files import FilesSink, Settings
from tapeloom.errors import SinkRefused
from tapeloom.plugin import SinkRun
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
sink = FilesSink(Settings(path=sys.argv[1]))
for call in (sink.check, lambda: sink.open(SinkRun("sink", 1))):
    try:
        call()
    except SinkRefused as error:
        print(error)
"""


def test_a_read_only_folder_is_refused_by_check_and_at_run_time(tmp_path: Path) -> None:
    """As root every folder can be written, so the test is another user then."""
    path = tmp_path / "events"
    if os.getuid() == 0:
        for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
            parent.chmod(0o755)
    path.mkdir(mode=0o555)
    code = [sys.executable, "-c", _AS_NOBODY, str(path)]
    result = subprocess.run(code, capture_output=True, text=True, cwd="/", env=os.environ)
    lines = result.stdout.splitlines()

    assert len(lines) == 2, result.stderr
    assert all("Give this user the right to write there" in line for line in lines)


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ({"path": " "}, "the path of a folder"),
        ({"rotate_every": "10ms"}, "1s or more"),
        ({"rotate_size": "1kB"}, "4kB or more"),
    ],
)
def test_a_setting_that_cannot_work_says_what_to_write(wrong: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        Settings(**wrong)
