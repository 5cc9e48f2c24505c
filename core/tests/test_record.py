"""`Recorder`: received frames are on the tape and replay to the same events, after a kill or a full disk too."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
import tapeloom
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom import Event, FeedSpec, Registry, Stack, Trade
from tapeloom._tape.compression import compressor
from tapeloom._tape.reader import RecordedAnswer, RecordedFrame, Tape, TapeHead
from tapeloom._tape.recorder import Recorder, frame_line
from tapeloom.errors import ConfigError, TapeError
from tapeloom.plugin import Endpoint, Feed, Request
from tapeloom_testing import FakeVenue, FakeWire, VirtualClock, WireEnd

NOW = 1_700_000_000_123_456_789


def feed(clock: VirtualClock) -> Feed:
    return Feed("majors", "acme", "spot", ["BTC/USD"], ("trades",), clock=clock)


def coin(n: int) -> str:
    return json.dumps({"s": "BTCUSD", "t": n, "p": "1.50", "q": "2", "i": n})


async def serve(end: WireEnd, endpoint: Endpoint) -> None:
    end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))
    end.push(coin(1), coin(2))
    end.push(coin(3), "garbage \ud7ff", '{"notice": "hello"}')
    end.push(coin(4))
    await anyio.sleep_forever()


def plain(events: Sequence[Event]) -> list[Any]:
    """Return the events without their receive times."""
    return [attrs.evolve(event, recv=0, ts=0 if event.symbol == "" else event.ts)
            for event in events if event.type != "status"]  # fmt: skip


async def test_replaying_the_tape_yields_the_events_of_the_live_stream(
    registry: Registry, tmp_path: Path
) -> None:
    spec = FeedSpec("acme", ["BTC/USD"], ["trades"], name="majors")
    live: list[Event] = []
    dial = FakeWire(serve).dial
    with anyio.fail_after(10):
        async with tapeloom.open(spec, registry=registry, dial=dial, record=tmp_path) as stream:
            async for event in stream:
                live.append(event)
                if isinstance(event, Trade) and event.id == 4:
                    stream.stop()
    tape = tmp_path / "majors.jsonl.zst"
    async with tapeloom.replay(tape, spec, registry=registry) as again:
        replayed = [event async for event in again]

    assert [event.id for event in replayed if isinstance(event, Trade)] == [1, 2, 3, 4]
    assert plain(replayed) == plain(live)


class CancellingClock(VirtualClock):
    """A clock of which the first sleep is cancelled at the moment at which it ends."""

    scope: anyio.CancelScope

    async def sleep(self, seconds: float) -> None:
        if self.scope.cancel_called:
            await anyio.sleep_forever()
        self.scope.cancel()


async def test_nothing_is_lost_if_the_end_comes_at_the_moment_of_a_write(
    tmp_path: Path, anyio_backend: str
) -> None:
    clock = CancellingClock(NOW)
    recorder = Recorder(tmp_path / "t.jsonl", feed(clock), clock)
    recorder.frames(1, NOW, [b"first", b"second"], 11)
    with anyio.fail_after(10):
        with anyio.CancelScope() as clock.scope:
            await recorder.run()

    records = list(Tape(tmp_path / "t.jsonl"))
    assert [r.frame for r in records if isinstance(r, RecordedFrame)] == [b"first", b"second"]


async def test_rest_responses_are_recorded(registry: Registry, tmp_path: Path) -> None:
    book = b'{"b": [["1.5", "2"]], "a": [["1.6", "3"]], "u": 7}'
    http = {"/symbols": (200, {}, b'["BTC/USD"]'), "/book?s=BTC/USD": (200, {}, book)}
    async with FakeVenue(lambda client: anyio.sleep_forever(), http=http).serve() as venue:
        spec = FeedSpec("acme", ["BTC/USD"], ["book"])
        stack = Stack(feeds=(spec,), venues={"acme": {"rest": venue.url("http")}})
        dial = FakeWire(serve).dial
        with anyio.fail_after(10):
            async with tapeloom.open(stack, registry=registry, dial=dial, record=tmp_path) as live:
                live.plans[0].feed.query_history(
                    tapeloom.plugin.HistoryQuery("book", "BTC/USD", "book")
                )
                async for event in live.of(tapeloom.Book):
                    assert event.last_id == 7
                    live.stop()
    answers = [
        record for record in Tape(tmp_path / "acme.jsonl.zst") if isinstance(record, RecordedAnswer)
    ]

    assert [record.body for record in answers] == [b'["BTC/USD"]', book]


def test_sent_messages_are_not_recorded(tmp_path: Path) -> None:
    clock = VirtualClock()
    recorder = Recorder(tmp_path / "t.jsonl", feed(clock), clock)
    request = Request(url="https://acme.invalid/x", headers={"key": "fake-secret"})
    recorder.answer(1, request, b"{}")
    anyio.run(recorder.flush)

    assert "fake-secret" not in (tmp_path / "t.jsonl").read_text()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=60) | st.text(max_size=30).map(lambda t: t.encode(
    errors="surrogatepass")), max_size=8), st.sampled_from([".jsonl", ".jsonl.gz", ".jsonl.zst"]))  # fmt: skip
def test_any_frame_is_read_back_unchanged(
    tmp_path_factory: pytest.TempPathFactory, frames: list[bytes], ending: str
) -> None:
    path = tmp_path_factory.mktemp("tape") / f"t{ending}"
    clock = VirtualClock(NOW)
    recorder = Recorder(path, feed(clock), clock)
    recorder.frames(3, NOW, frames[:4], 0)
    anyio.run(recorder.flush)
    recorder.frames(3, NOW, frames[4:], 0)
    recorder.answer(NOW, Request(url="https://acme.invalid/x?a=b", body=b'{"q": 1}'), b"\xff")
    anyio.run(recorder.flush)
    head, *records = Tape(path)

    assert isinstance(head, TapeHead)
    assert head.feed == {"name": "majors", "venue": "acme", "market": "spot",
                         "symbols": ["BTC/USD"], "channels": ["trades"]}  # fmt: skip
    assert records == [
        *(
            RecordedFrame(NOW, frame, 3, len(part) if not number else 1)
            for part in (frames[:4], frames[4:])
            for number, frame in enumerate(part)
        ),
        RecordedAnswer(NOW, "https://acme.invalid/x?a=b", b"\xff", b'{"q": 1}'),
    ]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.zst"])
def test_an_existing_tape_is_never_overwritten(tmp_path: Path, ending: str) -> None:
    clock = VirtualClock()
    (tmp_path / f"t{ending}").write_bytes(b"kept")
    for _ in range(2):
        Recorder(tmp_path / f"t{ending}", feed(clock), clock)

    names = {f"t{ending}", f"t.2{ending}", f"t.3{ending}"}
    assert {file.name for file in tmp_path.iterdir()} == names
    assert (tmp_path / f"t{ending}").read_bytes() == b"kept"


def test_a_tape_in_a_file_as_folder_is_a_tape_error(tmp_path: Path) -> None:
    clock = VirtualClock()
    (tmp_path / "file").touch()

    with pytest.raises(TapeError, match="cannot be written"):
        Recorder(tmp_path / "file" / "t.jsonl", feed(clock), clock)


def test_a_tape_without_a_first_line_for_the_feed_has_no_head(tmp_path: Path) -> None:
    (tmp_path / "old.jsonl").write_bytes(frame_line(5, b"{}"))

    assert Tape(tmp_path / "old.jsonl").head is None


def test_a_feed_without_frames_cannot_be_recorded(registry: Registry, tmp_path: Path) -> None:
    class Well:
        backends = frozenset({"asyncio", "trio"})
        channels = frozenset({"trades"})
        resumes = False

        async def run(self, deliver: Any) -> None:
            pass

        def symbols_changed(self) -> None:
            pass

    class Plugin:
        @tapeloom.hooks.hookimpl
        def connect(self, feed: Feed) -> Well:
            return Well()

    registry.register(Plugin(), "well")

    with pytest.raises(ConfigError, match="'well' uses no WebSocket"):
        tapeloom.open(FeedSpec("well", ["BTC/USD"], ["trades"]), registry=registry, record=tmp_path)


# ------------------------------------------------------------------------------- what goes wrong

PROGRAM = textwrap.dedent(
    """
    import sys, anyio
    from pathlib import Path
    from tapeloom._runtime.system_clock import SystemClock
    from tapeloom._tape.recorder import Recorder
    from tapeloom.plugin import Feed
    import structlog
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

    async def main():
        clock = SystemClock()
        feed = Feed("f", "acme", "", ["BTC/USD"], ("trades",), clock=clock)
        recorder = Recorder(Path(sys.argv[1]), feed, clock)
        size = int(sys.argv[2])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(recorder.run)
            for n in range(10_000):
                recorder.frames(1, n, [b"%d " % n + bytes(str(n % 7), "ascii") * size], 0)
                if n % 10 == 0:
                    print(n, feed.counters["tape_errors"], flush=True)
                await anyio.sleep(0.005)

    anyio.run(main)
    """
)


def numbers(path: Path) -> list[int]:
    frames = [record.frame for record in Tape(path) if isinstance(record, RecordedFrame)]
    return [int(frame.split()[0]) for frame in frames]


@pytest.mark.slow
def test_after_a_kill_only_the_last_second_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.zst"
    command = [sys.executable, "-c", PROGRAM, str(path), "10"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        last = 0
        while last < 500:
            last = int(process.stdout.readline().split()[0])
        process.send_signal(signal.SIGKILL)
    read = numbers(path)

    assert read == [*range(len(read))]
    assert len(read) > last - 260  # a frame each 5 ms or later: a second is at most 200 of them


@pytest.mark.slow
def test_a_full_disk_loses_only_the_frames_that_did_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    command = [sys.executable, "-c", PROGRAM, str(path), "300"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          preexec_fn=limit) as process:  # fmt: skip
        assert process.stdout is not None
        errors = 0
        while errors < 2:
            errors = int(process.stdout.readline().split()[1])
        process.kill()
        assert process.stderr is not None
        errors_logged = process.stderr.read()
    read = numbers(path)

    assert "tape_failed" in errors_logged
    assert 0 < path.stat().st_size <= 60_000
    assert read == [*range(len(read))]
    assert len(read) > 50


def test_a_partial_block_is_removed_before_the_next_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = VirtualClock()
    own = feed(clock)
    recorder = Recorder(tmp_path / "t.jsonl.zst", own, clock)
    write, room = os.write, [10]

    def half(file: int, data: Any) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        done = write(file, data[: room[0]])
        room[0] -= done
        return done

    monkeypatch.setattr(os, "write", half)
    recorder.frames(1, NOW, [b"one"], 3)
    anyio.run(recorder.flush)
    room[0] = 1_000_000
    recorder.frames(1, NOW, [b"two"], 3)
    anyio.run(recorder.flush)
    monkeypatch.undo()
    frames = [
        record.frame
        for record in Tape(tmp_path / "t.jsonl.zst")
        if isinstance(record, RecordedFrame)
    ]

    assert frames == [b"one", b"two"]
    assert own.counters["tape_errors"] == 1


def test_frames_beyond_the_memory_limit_are_counted_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tapeloom._tape.recorder._MAX_PENDING_BYTES", 1000)
    clock = VirtualClock()
    own = feed(clock)
    recorder = Recorder(tmp_path / "t.jsonl", own, clock)
    recorder.frames(1, NOW, [b"x" * 100] * 20, 2000)
    anyio.run(recorder.flush)
    kept = [record for record in Tape(tmp_path / "t.jsonl") if isinstance(record, RecordedFrame)]

    assert own.counters["tape_lost"] == 20 - len(kept)
    assert 0 < len(kept) < 9


@pytest.mark.parametrize("ending", [".zst", ".gz"])
def test_a_tape_that_ends_within_a_block_yields_the_records_before_it(
    tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"t.jsonl{ending}"
    pack = compressor(ending)
    first, second = pack(frame_line(1, b"{}") * 100), pack(os.urandom(2000).hex().encode())
    path.write_bytes(first + second[:-700])
    records = []
    with pytest.raises(TapeError, match="ends in the middle"):
        for record in Tape(path):
            records.append(record)  # noqa: PERF402

    assert records == [RecordedFrame(1, b"{}")] * 100


def test_invalid_compressed_data_raises_tape_error(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.zst"
    path.write_bytes(b"this is not it")

    with pytest.raises(TapeError, match="cannot be read"):
        list(Tape(path))
