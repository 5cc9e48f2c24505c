"""Tapes with damage are read around it; hostile tapes and files beside them cost no memory and no time."""

from __future__ import annotations

import gzip
import json
import os
import signal
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import anyio
import pytest
from tapeloom._tape.compression import compressor
from tapeloom._tape.reader import CorruptLine, RecordedAnswer, RecordedFrame, Tape
from tapeloom._tape.recorder import Recorder, frame_line
from tapeloom.errors import TapeError
from tapeloom.plugin import Feed
from tapeloom_testing import VirtualClock

BLOCKS, FRAMES = 6, 40
MB = 1 << 20


def number(n: int) -> bytes:
    return json.dumps({"i": n, "p": str(n * 7919 % 10007), "q": "1.5"}).encode()


@pytest.fixture
def clean(tmp_path: Path, ending: str) -> Path:
    """A tape of the recorder, with a block of frames for each second."""
    path = tmp_path / f"t{ending}"
    clock = VirtualClock()
    recorder = Recorder(path, Feed("f", "acme", "", ["A/B"], ("trades",), clock=clock), clock)
    for block in range(BLOCKS):
        frames = [number(block * FRAMES + n) for n in range(FRAMES)]
        recorder.frames(1, 1_000_000_000 * (block + 1), frames, 0)
        anyio.run(recorder.flush)
    return path


def read(path: Path) -> tuple[list[bytes], list[str], str]:
    """Return the frames of a tape, the texts of its corrupt records, and the error at its end."""
    frames, corrupt, error = [], [], ""
    try:
        for record in Tape(path):
            if isinstance(record, RecordedFrame):
                frames.append(record.frame)
            elif isinstance(record, CorruptLine):
                corrupt.append(record.text)
    except TapeError as failure:
        error = str(failure)
    return frames, corrupt, error


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in a call that blocks for longer."""

    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ------------------------------------------------------------------------------------------ damage


@pytest.mark.parametrize("ending", [".jsonl.zst", ".jsonl.gz"])
@pytest.mark.parametrize("change", ["bit", "byte", "cut", "insert", "zeros"])
def test_damage_of_a_compressed_tape_costs_only_its_second_and_is_told(
    clean: Path, change: str
) -> None:
    raw, chance = clean.read_bytes(), Random(change)
    whole = [number(n) for n in range(BLOCKS * FRAMES)]
    for _ in range(150):
        damaged, at = bytearray(raw), chance.randrange(len(raw))
        if change == "bit":
            damaged[at] ^= 1 << chance.randrange(8)
        elif change == "byte":
            damaged[at] ^= chance.randrange(1, 256)
        elif change == "cut":
            del damaged[at : at + chance.randrange(1, 50)]
        elif change == "insert":
            damaged[at:at] = chance.randbytes(chance.randrange(1, 50))
        else:
            damaged[at : at + 30] = bytes(len(damaged[at : at + 30]))
        clean.write_bytes(damaged)
        frames, corrupt, error = read(clean)

        if not error:  # no frame is doubled, out of order or has another digit
            assert [frame for frame in whole if frame in set(frames)] == frames
        blocks = {whole.index(frame) // FRAMES for frame in frames if frame in whole}
        assert len(blocks) >= BLOCKS - 2  # a cut may reach into the next block
        if len(frames) < len(whole):
            assert corrupt or error
        assert all("of the file are damaged" in text for text in corrupt if not error)


@pytest.mark.parametrize("ending", [".jsonl.zst", ".jsonl.gz"])
def test_two_damaged_seconds_are_told_apart(clean: Path) -> None:
    raw = bytearray(clean.read_bytes())
    for part in (2, 4):
        raw[len(raw) * part // BLOCKS - 40] ^= 0xFF
    clean.write_bytes(raw)
    frames, corrupt, error = read(clean)

    assert len(corrupt) == 2
    assert error == ""
    assert len(frames) == (BLOCKS - 2) * FRAMES


@pytest.mark.parametrize("ending", [".jsonl.zst", ".jsonl.gz"])
def test_a_tape_whose_first_second_is_damaged_is_read_from_the_next(clean: Path) -> None:
    raw = bytearray(clean.read_bytes())
    raw[0] ^= 0xFF
    clean.write_bytes(raw)
    frames, corrupt, error = read(clean)

    assert Tape(clean).head is None
    assert frames == [number(n) for n in range(FRAMES, BLOCKS * FRAMES)]
    assert (len(corrupt), error) == (1, "")


def test_a_file_made_of_beginnings_of_frames_is_refused_in_bounded_time(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd" * MB)

    with within(20), pytest.raises(TapeError, match="cannot be read any further"):
        list(Tape(path))


# ------------------------------------------------------------------------------------------- bombs


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_compressed_line_without_an_end_is_refused_in_bounded_memory(
    tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"t.jsonl{ending}"
    bomb = compressor(ending)(frame_line(1, b"{}") + b'{"ts":1,"frame":"' + bytes(400 * MB))
    path.write_bytes(bomb)
    tracemalloc.start()
    try:
        frames, _, error = read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert frames == [b"{}"]
    assert "line 2: expected a line of at most" in error
    assert peak < 250 * MB


def beside(folder: Path, file: str) -> Path:
    """Write a tape whose index names *file*."""
    path = folder / "day.ws.jsonl"
    path.write_bytes(frame_line(1_000_000_000, b"{}"))
    entries = [{"ts": 0.5, "url": "http://h.io/book", "file": file}]
    (folder / "day.rest.index.json").write_text(json.dumps(entries))
    return path


def test_a_file_beside_a_tape_that_decompresses_to_too_much_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(bytes(100 * MB), 1))

    _, _, error = read(beside(tmp_path, "b.json.gz"))
    assert "b.json.gz: the recorded response of http://h.io/book cannot be read" in error
    assert "expected at most 67108864 bytes, found more" in error


# ------------------------------------------------------------------------- other files than recordings


@pytest.mark.parametrize(
    "file", ["../secret", "sub/../../secret", "{absolute}", "link", "\0", "x" * 300]
)
def test_an_index_cannot_name_files_outside_its_folder(tmp_path: Path, file: str) -> None:
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "tapes"
    folder.mkdir()
    (folder / "link").symlink_to("../secret")
    path = beside(folder, file.format(absolute=tmp_path / "secret"))

    with pytest.raises(TapeError) as caught:
        list(Tape(path))
    assert str(path.parent) in str(caught.value)


def test_an_index_names_files_in_folders_below_it(tmp_path: Path) -> None:
    (tmp_path / "rest").mkdir()
    (tmp_path / "rest" / "book.json").write_text("B")
    records = list(Tape(beside(tmp_path, "rest/book.json")))

    assert [record.body for record in records if isinstance(record, RecordedAnswer)] == [b"B"]


@pytest.mark.parametrize("special", ["pipe", "device", "folder"])
@pytest.mark.parametrize("place", ["tape", "index", "response"])
def test_a_pipe_or_device_in_place_of_a_file_is_refused_at_once(
    tmp_path: Path, special: str, place: str
) -> None:
    path = beside(tmp_path, "book.json")
    names = {"tape": path.name, "index": "day.rest.index.json", "response": "book.json"}
    file = tmp_path / names[place]
    file.unlink(missing_ok=True)
    if special == "pipe":
        os.mkfifo(file)
    elif special == "folder":
        file.mkdir()
    else:
        # A device file itself, because a link out of the folder is refused as such.
        try:
            os.mknod(file, 0o600 | 0o020000, os.makedev(1, 5))
        except PermissionError:
            pytest.skip("only root can make a device file")
    with within(10), pytest.raises(TapeError, match=f"{names[place]}.*regular file"):
        list(Tape(path))


def test_a_tape_may_have_the_longest_name_that_a_file_can_have(tmp_path: Path) -> None:
    path = tmp_path / f"{'x' * 249}.jsonl"
    path.write_bytes(frame_line(1, b"{}"))

    assert read(path) == ([b"{}"], [], "")
    with pytest.raises(TapeError, match="there is no such file"):
        Tape(tmp_path / f"{'x' * 300}.jsonl")
