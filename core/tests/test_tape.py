"""`Tape` and `Replay`: recordings are read exactly, and replay to the same events for any batch size."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import httpx
import pytest
import tapeloom
from attrs import define, evolve, field
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom import Book, Event, FeedSpec, Registry, Reject, Stack, Status, Trade, encode
from tapeloom._compose.composer import compose
from tapeloom._runtime.rate_limits import RateLimits
from tapeloom._stream.feed.runner import FeedRunner
from tapeloom._tape.reader import CorruptLine, RecordedAnswer, RecordedFrame, Tape
from tapeloom._tape.replay import Recording, TapeClock
from tapeloom.errors import StageFailed, TapeError
from tapeloom.hooks import hookimpl
from tapeloom_testing import VirtualClock

SECOND = 1_000_000_000
BOOK = '{"b": [["1.5", "2"]], "a": [], "u": 7}'


def frame(n: int, at: int = 0) -> str:
    return json.dumps({"s": "BTCUSD", "t": at or n, "p": f"{n}.50", "q": "2", "i": n})


def line(ts: object, text: str) -> str:
    return f'{{"ts": {"null" if ts is None else ts}, "frame": {json.dumps(text)}}}\n'


def write(folder: Path, text: str | bytes, name: str = "day.ws.jsonl") -> Path:
    path = folder / name
    raw = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


def index(folder: Path, *entries: Any, bodies: dict[str, str] | None = None) -> None:
    (folder / "day.rest.index.json").write_text(json.dumps(entries))
    for name, body in (bodies or {}).items():
        (folder / name).write_text(body)


def read(path: Path) -> tuple[list[Any], TapeError | None]:
    """Return the records that could be read, and the error at the end."""
    out: list[Any] = []
    try:
        for record in Tape(path):
            out.append(record)  # noqa: PERF402 - the records before an error are kept
    except TapeError as error:
        return out, error
    return out, None


# ----------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("name", ["day.jsonl", "ethusdt_20240630.gz"])
def test_lines_of_a_time_and_a_message_are_frames(tmp_path: Path, name: str) -> None:
    texts = [frame(1), '[{"a": 1}]']
    lines = [f"17197000000000000{n:02d} {text}\n" for n, text in enumerate(texts)]
    huge = "9999999999999999999 {}\n"
    records = list(Tape(write(tmp_path, "".join([*lines, huge]), name)))

    assert [(record.recv, record.frame.decode()) for record in records[:2]] == [  # type: ignore[union-attr]
        (1_719_700_000_000_000_000 + n, text) for n, text in enumerate(texts)
    ]
    assert [type(record) for record in records[2:]] == [CorruptLine]


@pytest.mark.parametrize("name", ["day.ws.jsonl", "day.ws.jsonl.gz"])
def test_frames_are_read_as_they_were_received(tmp_path: Path, name: str) -> None:
    texts = [frame(1), "naïve — ünïcode \u2028", "", '{"a": "\\n"}']
    path = write(tmp_path, "".join(line(n, text) for n, text in enumerate(texts)), name)
    tape = Tape(path)

    assert [r.frame.decode() for r in tape if isinstance(r, RecordedFrame)] == texts
    assert list(tape) == list(tape)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1722470400.123456789", 1_722_470_400_123_456_789),
        ("1722470400.1", 1_722_470_400_100_000_000),
        ("1722470400", 1_722_470_400_000_000_000),
        ("0.000000001", 1),
        ("1.7224704e9", 1_722_470_400_000_000_000),
        ("9007199254.740993", 9_007_199_254_740_993_000),
    ],
)
def test_times_are_exact_to_the_nanosecond(tmp_path: Path, text: str, ns: int) -> None:
    (record,), _ = read(write(tmp_path, line(text, "x")))

    assert record == RecordedFrame(ns, b"x")


@settings(max_examples=50)
@given(st.integers(0, 2**63 - 10**9))
def test_times_keep_every_digit(ns: int) -> None:
    with TemporaryDirectory() as folder:
        text = f"{ns // SECOND}.{ns % SECOND:09}"
        (record,), _ = read(write(Path(folder), line(text, "x")))

    assert record.recv == ns


def test_a_record_without_a_time_has_the_time_of_its_predecessor(tmp_path: Path) -> None:
    text = line(None, "a") + line(5, "b") + line(None, "c")
    records, _ = read(write(tmp_path, text))

    assert [r.recv for r in records] == [0, 5 * SECOND, 5 * SECOND]


@pytest.mark.parametrize(
    "bad",
    [
        "garbage",
        "{",
        "[]",
        "7",
        "null",
        '"text"',
        '{"ts": 1}',
        '{"frame": "x"}',
        '{"ts": 1, "frame": 5}',
        '{"ts": "soon", "frame": "x"}',
        '{"ts": [], "frame": "x"}',
        '{"ts": NaN, "frame": "x"}',
        '{"ts": Infinity, "frame": "x"}',
        '{"ts": 1e400, "frame": "x"}',
        '{"ts": 1e999999, "frame": "x"}',
        '{"ts": 1722470400123, "frame": "x"}',
        '{"ts": 1, "fact": "live", "monotonic": Infinity}',
        '{"ts": 1, "fact": "live", "monotonic": NaN}',
        '{"ts": 1, "fact": "live", "monotonic": 1e300}',
        '{"ts": 1, "frame": "\\ud800"}',
        "[" * 100_000,
        "\xff",
    ],
)
def test_a_corrupt_line_does_not_affect_its_neighbours(tmp_path: Path, bad: str) -> None:
    text = line(1, "a").encode() + bad.encode("latin-1") + b"\n\n" + line(2, "b").encode()
    records, error = read(write(tmp_path, text))

    assert error is None
    assert [type(r) for r in records] == [RecordedFrame, CorruptLine, RecordedFrame]
    assert (records[1].line, records[1].recv) == (2, SECOND)
    assert len(records[1].text) <= 200


@pytest.mark.parametrize("name", ["day.ws.jsonl", "day.ws.jsonl.gz"])
@pytest.mark.parametrize("text", ["time,price\n1,2\n", "\x1f\x8b\x08 not json", "[1, 2]\n"])
def test_a_file_that_is_not_a_recording_raises_tape_error(
    tmp_path: Path, name: str, text: str
) -> None:
    records, error = read(write(tmp_path, text, name))

    assert records == []
    assert error is not None
    assert "Is this a recording?" in str(error)
    assert error.line == 1
    assert error.path.endswith(name)


def test_a_missing_file_raises_tape_error(tmp_path: Path) -> None:
    with pytest.raises(TapeError, match=r"nothing\.ws\.jsonl: there is no such file"):
        Tape(tmp_path / "nothing.ws.jsonl")
    with pytest.raises(TapeError, match="it is not a regular file, but a folder"):
        Tape(tmp_path)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.99])
def test_a_truncated_file_is_read_up_to_its_last_complete_line(tmp_path: Path, keep: float) -> None:
    texts = [f"{n * 7919 % 10007} frame {n}" for n in range(3000)]
    path = write(tmp_path, "".join(line(n, t) for n, t in enumerate(texts)), "day.ws.jsonl.gz")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    records, error = read(path)

    assert [r.frame.decode() for r in records] == texts[: len(records)]
    assert len(records) > 3000 * keep * 0.8
    assert error is not None
    assert "middle of its compressed data" in str(error)
    assert error.path == str(path)
    assert error.line == len(records)


@pytest.mark.parametrize("where", [0.0, 0.001, 0.1, 0.5])
def test_damaged_compressed_data_raises_tape_error(tmp_path: Path, where: float) -> None:
    path = write(tmp_path, "".join(line(n, f"{n * 7919}") for n in range(3000)), "day.ws.jsonl.gz")
    raw = bytearray(path.read_bytes())
    middle = int(len(raw) * where)
    raw[middle : middle + 40] = bytes(255 - byte for byte in raw[middle : middle + 40])
    path.write_bytes(raw)
    _, error = read(path)

    assert error is not None
    assert "day.ws.jsonl.gz" in str(error)


# ------------------------------------------------------------------------------------- REST answers


def entry(position: int | None, ts: float | None, file: str = "book.json") -> dict[str, Any]:
    placed = {} if position is None else {"position": f"after {position} ws frames"}
    return {"ts": ts, "url": f"http://x/{file}", "file": file, **placed}


FRAMES = line(10, "a") + line(20, "b") + line(30, "c")


def order(path: Path) -> list[str]:
    return [
        r.frame.decode()
        if isinstance(r, RecordedFrame)
        else f"{r.body.decode()}@{r.recv / SECOND:g}"
        for r in Tape(path)
        if isinstance(r, RecordedFrame | RecordedAnswer)
    ]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([entry(None, 15)], ["a", "B@15", "b", "c"]),
        ([entry(None, 20)], ["a", "B@20", "b", "c"]),
        ([entry(None, 5)], ["B@5", "a", "b", "c"]),
        ([entry(None, 99)], ["a", "b", "c", "B@99"]),
        ([entry(2, 25)], ["a", "b", "B@25", "c"]),
        ([entry(2, 99)], ["a", "b", "B@30", "c"]),
        ([entry(0, 1)], ["B@1", "a", "b", "c"]),
        ([entry(2, None)], ["a", "b", "B@30", "c"]),
        ([entry(3, None)], ["a", "b", "c", "B@30"]),
        ([entry(1, 12, "c.json"), entry(2, None)], ["a", "C@12", "b", "B@30", "c"]),
        ([entry(None, 25), entry(None, 15, "c.json")], ["a", "C@15", "b", "B@25", "c"]),
    ],
)
def test_rest_responses_are_yielded_at_their_time_or_position(
    tmp_path: Path, entries: list[Any], expected: list[str]
) -> None:
    index(tmp_path, *entries, bodies={"book.json": "B", "c.json": "C"})

    assert order(write(tmp_path, FRAMES)) == expected


def test_the_index_is_found_beside_a_compressed_recording_too(tmp_path: Path) -> None:
    index(tmp_path, entry(None, 15, "book.json.gz"))
    (tmp_path / "book.json.gz").write_bytes(gzip.compress(b"B"))

    assert order(write(tmp_path, FRAMES, "day.ws.jsonl.gz")) == ["a", "B@15", "b", "c"]


@pytest.mark.parametrize(
    "body", [None, b"\x1f\x8b\x08\x00 damaged", gzip.compress(b"B" * 99, mtime=0)[:20]]
)
def test_an_unreadable_rest_response_raises_after_the_records_before_it(
    tmp_path: Path, body: bytes | None
) -> None:
    index(tmp_path, entry(None, 15, "book.json.gz"))
    if body is not None:
        (tmp_path / "book.json.gz").write_bytes(body)
    records, error = read(write(tmp_path, FRAMES))

    assert [r.frame for r in records] == [b"a"]
    assert error is not None
    assert error.path.endswith("book.json.gz")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"ts": 1}',
        "[7]",
        '["x"]',
        "[{}]",
        '[{"ts": "x", "url": "", "file": ""}]',
        "\xff",
        '[{"ts": 1, "url": "", "file": "", "position": 7}]',
        "null",
        "[" * 100_000,
    ],
)
def test_a_malformed_index_raises_tape_error_with_its_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "day.rest.index.json").write_bytes(text.encode("latin-1"))

    with pytest.raises(TapeError, match=r"day\.rest\.index\.json: expected a list"):
        Tape(write(tmp_path, FRAMES))


# ------------------------------------------------------------------------------------------- replay


@define
class Pulse:
    """A stage that counts trades and emits the count *after* ns after the first one."""

    after: int
    due: int | None = None
    count: int = 0
    ticks: list[int] = field(factory=list)

    def __call__(self, events: list[Event]) -> list[Event]:
        out: list[Event] = []
        for event in events:
            if isinstance(event, Trade):
                self.count += 1
                if self.due is None:
                    self.due = event.recv + self.after
            out.append(event)
        return out

    def tick(self, now: int) -> list[Event]:
        self.ticks.append(now)
        self.due, count = None, self.count
        if count % 3 == 0:
            self.due = now + self.after
        return [Status("acme", "", now, now, "counted", str(count))]

    def flush(self) -> list[Event]:
        return [Status("acme", "", 0, 0, "flushed", str(self.count))]


@define
class PulsePlugin:
    after: int
    made: list[Pulse] = field(factory=list)

    def __hash__(self) -> int:
        return id(self)

    @hookimpl
    def validate(self, feed: Any) -> Pulse:
        self.made.append(Pulse(self.after))
        return self.made[-1]


SPEC = FeedSpec("acme", ["BTC/USD"], ["trades"])


async def replayed(
    path: Path, registry: Registry, spec: FeedSpec = SPEC, venue: Any = None, **options: Any
) -> tuple[list[Event], Exception | None]:
    stack = Stack(feeds=(spec,), venues={"acme": venue or {}})
    out: list[Event] = []
    failure: Exception | None = None
    async with tapeloom.replay(path, stack, registry=registry, **options) as stream:
        try:
            async for event in stream:
                out.append(event)  # noqa: PERF401 - the events before an error are kept
        except tapeloom.errors.TapeloomError as error:
            failure = error
    return out, failure


tapes = st.lists(
    st.tuples(st.sampled_from([0, 1, 7, 40, 99, 100, 101, 250, 1000]), st.sampled_from("ttttgc")),
    max_size=40,
)


def taped(steps: Sequence[tuple[int, str]]) -> str:
    """Return a recording of steps: milliseconds to wait, and a trade, garbage or corrupt record."""
    now, text = 1_700_000_000_000, line("1700000000.0", frame(999))
    for n, (step, kind) in enumerate(steps, 1):
        now += step
        frames = {"t": frame(n), "g": "garbage", "c": ""}
        text += line(f"{now // 1000}.{now % 1000:03}", frames[kind]) if kind != "c" else "corrupt\n"
    return text


@pytest.mark.thorough
@settings(max_examples=25, deadline=None)
@given(tapes, st.sampled_from([0, 1, 30, 100, 350]))
def test_the_events_are_the_same_for_any_batch_size(
    acme_class: Any, steps: list[tuple[int, str]], after: int
) -> None:
    def lines(path: Path, batch: int) -> list[str]:
        registry = Registry({})
        registry.register(acme_class(), "acme")
        registry.register(PulsePlugin(after * 1_000_000), "pulse")
        spec = FeedSpec("acme", ["BTC/USD"], ["trades"], stages=("pulse",))
        events, error = anyio.run(lambda: replayed(path, registry, spec, batch=batch))
        assert error is None
        return [encode(event) for event in events]

    with TemporaryDirectory() as folder:
        path = write(Path(folder), taped(steps))
        first, *others = [lines(path, batch) for batch in (1, 7, 64, 4096)]

    assert all(other == first for other in others)
    assert sum('"type":"trade"' in text for text in first) == 1 + sum(k == "t" for _, k in steps)
    assert sum("corrupt_record" in text for text in first) == sum(k == "c" for _, k in steps)


async def test_two_replays_are_the_same_to_the_byte(tmp_path: Path, registry: Registry) -> None:
    index(tmp_path, {"ts": 1.5, "url": "http://h/book?s=BTC/USD", "file": "b"}, bodies={"b": BOOK})
    text = "".join(line(n / 10, frame(n)) for n in range(1, 60)) + "corrupt\n"
    path = write(tmp_path, text)
    spec = FeedSpec("acme", ["BTC/USD"], ["trades"], stages=("marker",))
    runs = [
        "\n".join(map(encode, (await replayed(path, registry, spec, {"rest": "http://h"}))[0]))
        for _ in range(2)
    ]

    assert runs[0] == runs[1]
    assert '"book"' in runs[0]


@pytest.mark.parametrize(
    ("after", "times", "expected"),
    [
        (30, ["1.000", "1.095", "1.5"], [1, 2, 1.1, 3]),
        (10, ["1.000", "1.15", "1.25"], [1, 1.1, 2, 1.2, 3]),
        (350, ["1.000", "2.0"], [1, 1.4, 2]),
        (100, ["1.000", "1.1", "1.2"], [1, 1.1, 2, 1.2, 3]),
    ],
)
async def test_stages_tick_on_the_time_grid_before_later_frames(
    tmp_path: Path, registry: Registry, after: int, times: list[str], expected: list[float]
) -> None:
    registry.register(PulsePlugin(after * 1_000_000), "pulse")
    path = write(tmp_path, "".join(line(at, frame(n)) for n, at in enumerate(times, 1)))
    spec = FeedSpec("acme", ["BTC/USD"], ["trades"], stages=("pulse",))
    events, _ = await replayed(path, registry, spec)
    order = [
        event.id if isinstance(event, Trade) else event.ts / SECOND
        for event in events
        if isinstance(event, Trade) or (isinstance(event, Status) and event.state == "counted")
    ]

    assert order == expected


async def test_a_time_of_the_far_future_in_a_tape_does_not_tick_for_centuries(
    tmp_path: Path, registry: Registry
) -> None:
    plugin = PulsePlugin(SECOND)
    registry.register(plugin, "pulse")
    times = ["1700000000"] * 3 + ["9000000000", "1700000001"]  # after three, it is due every second
    text = "".join(line(at, frame(n)) for n, at in enumerate(times, 1))
    spec = FeedSpec("acme", ["BTC/USD"], ["trades"], stages=("pulse",))
    with anyio.fail_after(20):
        events, _ = await replayed(write(tmp_path, text), registry, spec)

    assert [e.id for e in events if isinstance(e, Trade)] == [1, 2, 3, 4, 5]
    assert 86_400 < len(plugin.made[0].ticks) <= 100_000  # a pause of a day is ticked through


async def test_a_recording_that_begins_without_a_time_does_not_tick_since_1970(
    tmp_path: Path, registry: Registry
) -> None:
    plugin = PulsePlugin(SECOND)
    registry.register(plugin, "pulse")
    text = "".join(line(None, frame(n)) for n in (1, 2, 3)) + line("1700000000", frame(4))
    spec = FeedSpec("acme", ["BTC/USD"], ["trades"], stages=("pulse",))
    with anyio.fail_after(10):
        events, _ = await replayed(write(tmp_path, text), registry, spec)

    assert [e.id for e in events if isinstance(e, Trade)] == [1, 2, 3, 4]
    assert len(plugin.made[0].ticks) < 5


async def test_rest_responses_of_other_symbols_are_dropped_and_unreadable_ones_rejected(
    tmp_path: Path, registry: Registry
) -> None:
    def book(symbol: str, file: str) -> dict[str, Any]:
        return {"ts": 1.5, "url": f"http://h/book?s={symbol}", "file": file}

    index(
        tmp_path,
        book("BTC/USD", "good"),
        book("ETH/USD", "good"),
        book("BTC/USD", "bad"),
        book("BTC/USD", "odd"),
        bodies={"good": BOOK, "bad": "<html>", "odd": "[1]"},
    )
    path = write(tmp_path, line(1, frame(1)) + line(2, frame(2)))
    events, error = await replayed(path, registry, venue={"rest": "http://h"})
    kinds = [e.rule if isinstance(e, Reject) else type(e).__name__ for e in events]

    assert error is None
    assert kinds == ["Trade", "Book", "unreadable_answer", "unreadable_answer", "Trade", "Status"]
    assert [e.symbol for e in events if isinstance(e, Book)] == ["BTC/USD"]


async def test_the_listing_is_read_from_the_recording(tmp_path: Path, registry: Registry) -> None:
    listed = {"ts": 0.5, "url": "http://h/symbols", "file": "s"}
    index(tmp_path, listed, bodies={"s": '["BTC/USD", "ETH/USD"]'})
    path = write(tmp_path, line(1, frame(1)))
    stack = Stack(feeds=(SPEC,), venues={"acme": {"rest": "http://h"}})
    async with tapeloom.replay(path, stack, registry=registry) as stream:
        events = [event async for event in stream]

    assert sorted(stream.plans[0].feed.listing.instruments) == ["BTC/USD", "ETH/USD"]
    assert [type(e) for e in events] == [Trade, Status]


async def test_a_corrupt_line_is_a_reject_in_its_place(tmp_path: Path, registry: Registry) -> None:
    text = line(1, frame(1)) + "corrupt\n" + line(2, frame(2))
    events, _ = await replayed(write(tmp_path, text), registry)
    found = [e.id if isinstance(e, Trade) else e.rule for e in events[:-1]]  # type: ignore[union-attr]

    assert found == [1, "corrupt_record", 2]
    assert "line 2: corrupt" in events[1].evidence  # type: ignore[union-attr]


async def test_recorded_replies_are_ignored_and_unreadable_frames_rejected(
    tmp_path: Path, registry: Registry
) -> None:
    texts = ['{"ok": 1}', '{"notice": "bye", "ends": true}', '{"error": "x", "id": 1}', "junk"]
    path = write(tmp_path, "".join(line(n, text) for n, text in enumerate(texts, 1)))
    events, _ = await replayed(path, registry)

    assert [getattr(e, "rule", "") for e in events[:-1]] == ["unreadable_frame"]
    assert events[0].recv == 4 * SECOND


async def test_a_truncated_recording_delivers_its_events_before_the_error(
    tmp_path: Path, registry: Registry
) -> None:
    text = "".join(line(n, frame(n)) for n in range(1, 3001))
    path = write(tmp_path, text, "day.ws.jsonl.gz")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    events, error = await replayed(path, registry)
    ids = [e.id for e in events if isinstance(e, Trade)]

    assert ids == list(range(1, len(ids) + 1))
    assert len(ids) > 1000
    assert isinstance(error, TapeError)
    assert "day.ws.jsonl.gz" in str(error)


async def test_a_stage_with_on_error_end_ends_the_replay(
    tmp_path: Path, registry: Registry
) -> None:
    class Broken:
        @hookimpl
        def validate(self, feed: Any) -> Any:
            def stage(events: list[Event]) -> list[Event]:
                raise RuntimeError("no")

            return stage

    registry.register(Broken(), "broken")
    spec = FeedSpec("acme", ["BTC/USD"], ["trades"], stages=("broken",))
    stack = Stack(feeds=(spec,), stages={"broken": {"on_error": "end"}})
    with pytest.raises(StageFailed, match="'broken' raised RuntimeError: no"):
        async with tapeloom.replay(
            write(tmp_path, line(1, frame(1))), stack, registry=registry
        ) as stream:
            async for _ in stream:
                pass


async def test_replay_speed_is_kept_on_the_wall_clock(tmp_path: Path, registry: Registry) -> None:
    wall = VirtualClock()
    path = write(tmp_path, "".join(line(n, frame(n)) for n in (10, 11, 12, 20)))
    (plan,) = compose(Stack(feeds=(SPEC,)), registry, TapeClock()).plans
    delivered: list[tuple[float, Any]] = []

    async def deliver(events: list[Event]) -> None:
        delivered.extend(
            (wall.monotonic(), event.id) for event in events if isinstance(event, Trade)
        )

    recording = Recording({"acme": Tape(path)}, 256, 2.0, wall)
    limits = RateLimits(wall)
    async with httpx.AsyncClient() as client, wall.running():
        await FeedRunner(plan, deliver, client, limits, recording=recording).run()

    assert delivered == [(0, 10), (0.5, 11), (1.0, 12), (5.0, 20)]


async def test_a_replay_without_events_can_be_stopped(tmp_path: Path, registry: Registry) -> None:
    text = line(1, frame(1)) + line(1, '{"s": "OTHER"}') * 200_000
    path = write(tmp_path, text)
    async with tapeloom.replay(path, SPEC, registry=registry) as stream:
        with anyio.fail_after(20):
            async for event in stream:
                if isinstance(event, Trade):
                    stream.stop()

    assert 0 < stream.counters["frames"] < 100_000


def recorded(folder: Path, name: str, trades: dict[int, int]) -> Path:
    """Write a tape of the feed *name* with a trade for each id, at its second."""
    feed = {"name": name, "venue": "acme", "symbols": ["BTC/USD"], "channels": ["trades"]}
    head = json.dumps({"ts": min(trades.values()), "feed": feed}) + "\n"
    lines = "".join(line(at, frame(n)) for n, at in trades.items())
    return write(folder, head + lines, f"{name}.jsonl")


@pytest.mark.parametrize("speed", [None, 1e6])
@pytest.mark.parametrize("given", ["folder", "tapes"])
async def test_the_tapes_of_several_feeds_are_replayed_in_order_of_time(
    tmp_path: Path, registry: Registry, given: str, speed: float | None
) -> None:
    times = {n: n // 2 for n in range(10, 3000) if n % 2 or n < 2000}
    tapes = [
        recorded(tmp_path, "odd", {n: at for n, at in times.items() if n % 2}),
        recorded(tmp_path, "even", {n: at for n, at in times.items() if not n % 2}),
        recorded(tmp_path, "late", {4000: 1000, 4001: 1600}),
    ]
    feeds = [FeedSpec("acme", ["BTC/USD"], ["trades"], name=tape.stem) for tape in tapes]
    path: Any = tmp_path if given == "folder" else tapes
    async with tapeloom.replay(path, feeds, registry=registry, speed=speed) as stream:
        events = [event async for event in stream]
    trades = [event for event in events if isinstance(event, Trade)]

    assert sorted(trade.id for trade in trades) == [*times, 4000, 4001]
    assert [event.recv for event in events] == sorted(event.recv for event in events)
    assert [event.detail for event in events if isinstance(event, Status)] == [
        "feed even", "feed odd", "feed late",
    ]  # fmt: skip
    assert stream.counters["unreadable_frames"] == 0


async def test_the_other_feeds_go_on_when_a_tape_cannot_be_read_further(
    tmp_path: Path, registry: Registry
) -> None:
    tapes = [recorded(tmp_path, name, {n: n for n in range(1, 2000)}) for name in ("a", "b")]
    whole = gzip.compress(tapes[1].read_bytes())
    tapes[1] = write(tmp_path, whole[: len(whole) // 2], "b.jsonl")
    tapes[1] = tapes[1].rename(tmp_path / "b.jsonl.gz")
    feeds = [FeedSpec("acme", ["BTC/USD"], ["trades"], name=name) for name in ("a", "b")]
    ids: list[Any] = []
    with anyio.fail_after(20), pytest.raises(TapeError, match=r"b\.jsonl\.gz"):
        async with tapeloom.replay(tapes, feeds, registry=registry) as stream:
            async for event in stream.of(Trade):
                ids.append(event.id)  # noqa: PERF401 - those before the error are kept

    assert set(ids) == set(range(1, 2000))
    assert 1999 < len(ids) < 2 * 1999


async def test_a_replay_of_several_feeds_can_be_stopped(tmp_path: Path, registry: Registry) -> None:
    tapes = [recorded(tmp_path, name, {n: n for n in range(1, 5000)}) for name in ("a", "b")]
    feeds = [FeedSpec("acme", ["BTC/USD"], ["trades"], name=name) for name in ("a", "b")]
    with anyio.fail_after(20):
        async with tapeloom.replay(tapes, feeds, registry=registry) as stream:
            async for event in stream.of(Trade):
                if event.id == 10:
                    stream.stop()

    assert 0 < stream.counters["frames"] < 9998


def test_tapes_that_match_no_feed_are_named(tmp_path: Path, registry: Registry) -> None:
    recorded(tmp_path, "majors", {1: 1})
    (tmp_path / "empty").mkdir()
    with pytest.raises(tapeloom.errors.ConfigError, match=r"feeds are a, b, the tapes majors"):
        tapeloom.replay(
            tmp_path, [evolve(SPEC, name="a"), evolve(SPEC, name="b")], registry=registry
        )
    with pytest.raises(TapeError, match=r"there is no file \*\.jsonl"):
        tapeloom.replay(tmp_path / "empty", SPEC, registry=registry)


async def test_a_recording_cannot_be_replayed_into_two_feeds(
    tmp_path: Path, registry: Registry
) -> None:
    path = write(tmp_path, line(1, frame(1)))
    with pytest.raises(tapeloom.errors.ConfigError, match="each tape needs a feed with its name"):
        tapeloom.replay(path, [SPEC, SPEC], registry=registry)
