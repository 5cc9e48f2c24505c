"""Readers of stacks and tapes either read a mutated file or raise their documented error."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random

import pytest
import tapeloom
from tapeloom import FeedSpec, Registry, decode, encode
from tapeloom._compose.composer import compose
from tapeloom._config import parse, read
from tapeloom._tape.compression import compressor
from tapeloom._tape.reader import CorruptLine, RecordedAnswer, RecordedFrame, Tape, TapeHead
from tapeloom.errors import ConfigError, PluginNotFound, TapeError
from tapeloom_testing import VirtualClock
from tapeloom_testing.fuzz import mutants

STACKS = [
    b"""
[[feed]]
name = "spot"
venue = "nowhere"
symbols = ["BTC/USDT", "ETH/USDT"]
channels = ["trades", "book:20", "klines:1m"]
stages = ["quality"]

[stage.quality]
on_error = "disable"

[queue]
size = 1000
policy = "block"

[venue.nowhere]
base_url = "http://127.0.0.1:1"

[network]
proxy = "http://127.0.0.1:3128"

[flight]
folder = "flights"
seconds = 30
""",
    b'backend = "trio"\n[[feed]]\nvenue = "nowhere"\nsymbols = ["A/B"]\nchannels = ["trades"]\n[[sink]]\nuse = "jsonl"\non_error = "disable"\ntypes = ["trade", "bar"]\n',
]
"""Two stacks that use every table. The venue `nowhere` does not exist, which is a further mistake."""


@pytest.mark.thorough
def test_a_mutated_stack_file_is_read_or_raises_a_documented_error(tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()
    path = tmp_path / "stack.toml"
    for text in islice(mutants(STACKS, Random(1)), 6000):
        path.write_bytes(text)
        try:
            draft = read(path)
            compose(draft.stack_or_raise(), Registry(), VirtualClock(0), 1).or_raise()
        except (ConfigError, PluginNotFound) as error:
            outcomes["refused" if str(error).strip() else "mute"] += 1
        else:
            outcomes["read"] += 1

    assert outcomes["refused"] > 3000
    assert not outcomes["mute"]


TABLES = {
    "feed": [
        {"venue": "nowhere", "symbols": ["BTC/USDT"], "channels": ["trades"], "stages": ["quality"]}
    ],
    "venue": {"nowhere": {"base_url": "http://127.0.0.1:1"}},
    "network": {"proxy": "http://127.0.0.1:3128"},
    "flight": {"folder": "flights", "seconds": 30, "keep": 3},
    "stage": {"quality": {"on_error": "disable"}},
    "sink": [{"use": "jsonl", "queue": {"size": 5}}],
    "queue": {"size": 5, "policy": "conflate"},
}


@pytest.mark.thorough
def test_mutated_stack_tables_are_read_or_raise_config_error() -> None:
    outcomes: Counter[str] = Counter()
    for text in islice(mutants([json.dumps(TABLES).encode()], Random(2)), 6000):
        try:
            tables = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if not isinstance(tables, dict):
            continue
        try:
            parse(tables).stack_or_raise()
        except ConfigError:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1

    assert outcomes["refused"] > 1000
    assert outcomes["read"] > 10


# --------------------------------------------------------------------------------------------- tapes

LINES = [
    json.dumps({"ts": 1.5, "feed": {"venue": "nowhere", "symbols": ["BTC/USDT"]}}).encode(),
    json.dumps({"ts": 1.75, "frame": '{"e":"trade","p":"1.5"}'}).encode(),
    json.dumps({"ts": 1.75, "frame64": "eyJlIjoxfQ=="}).encode(),
    json.dumps({"ts": 2, "url": "http://127.0.0.1/depth", "request": "", "answer": "{}"}).encode(),
    json.dumps({"ts": None, "frame": "x", "connection": 2}).encode(),
]


def written(path: Path, content: bytes) -> Path:
    """Write a tape, compressed as the ending of its name says."""
    path.write_bytes(compressor(path.suffix)(content))
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_valid_lines_between_mutated_ones_are_all_read(suffix: str, tmp_path: Path) -> None:
    chance, broken = Random(3), mutants(LINES, Random(4))
    good = [json.dumps({"ts": n, "frame": f"good {n}"}).encode() for n in range(200)]
    lines = list(good[:1])
    for line in good[1:]:
        lines += [bad.replace(b"\n", b" ") for bad in islice(broken, chance.randrange(40))]
        lines.append(line)
    tape = Tape(written(tmp_path / f"t.ws.{suffix}", b"\n".join(lines)))

    records = list(tape)
    assert {type(record) for record in records} == {
        RecordedFrame,
        RecordedAnswer,
        TapeHead,
        CorruptLine,
    }
    read = [record.frame for record in records if isinstance(record, RecordedFrame)]
    assert [frame for frame in read if frame.startswith(b"good")] == [
        b"good %d" % n for n in range(200)
    ]


@pytest.mark.thorough
@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_a_mutated_tape_file_is_read_or_raises_tape_error(suffix: str, tmp_path: Path) -> None:
    path = written(tmp_path / f"t.ws.{suffix}", b"\n".join(LINES * 20))
    whole, outcomes = path.read_bytes(), Counter[str]()
    for content in islice(mutants([whole, whole[: len(whole) // 2]], Random(5)), 1500):
        path.write_bytes(content)
        try:
            tape = Tape(path)
            assert tape.head is None or dict(tape.head) is not None
            records = list(tape)
        except TapeError as error:
            outcomes["refused" if str(path) in str(error) else "nameless"] += 1
        else:
            outcomes["read"] += len(records)

    assert outcomes["refused"] > 100
    assert outcomes["read"] > 100
    assert not outcomes["nameless"]


#: Facts as a live run of two connections of one feed has them, between its frames.
FACTS = [
    {"fact": "symbols", "of": ["BTC/USD"], "unlisted": []},
    {"fact": "opened", "connection": 1, "label": "acme#1"},
    {"fact": "status", "of": ["connected", "acme#1", "", ""]},
    {"fact": "live", "of": [["BTC/USD", "trades"]], "replied_at": 1_700_000_000_000_000_000},
    {"fact": "reply", "of": [["subscribed", "acme#1: 1 subscriptions", "", ""]]},
    {"fact": "stalled", "of": ["BTC/USD", "trades"], "seconds": 7.5},
    {"fact": "feed_checked"},
    {"fact": "handover", "label": "acme#1", "step": "begun", "connection": 1},
    {"fact": "opened", "connection": 2, "label": "acme#1"},
    {"fact": "handover_read", "connection": 2},
    {"fact": "handover", "label": "acme#1", "step": "switched", "connection": 2},
    {"fact": "requested", "of": ["BTC/USD", "trades"]},
    {"fact": "filled", "of": ["BTC/USD", "trades"]},
    {"fact": "given_up", "of": ["BTC/USD", "trades"]},
    {"fact": "history_emitted"},
    {"fact": "handover", "label": "acme#1", "step": "over", "connection": 2},
    {
        "fact": "lost",
        "of": [["BTC/USD", "trades"]],
        "last_recv": 1_700_000_001_000_000_000,
        "maybe_stalled": [[["BTC/USD", "trades"], 1_700_000_000_500_000_000]],
    },
    {"fact": "stalls_checked"},
    {"fact": "tick", "now": 1_700_000_001_000_000_000},
    {"fact": "listing"},
    {"fact": "answered"},
    {"fact": "leaving", "of": ["BTC/USD"]},
    {"fact": "dropped", "of": ["BTC/USD"]},
    {"fact": "forgotten", "of": [["BTC/USD", "trades"]]},
    {"fact": "ended"},
]


@pytest.mark.thorough
async def test_mutated_facts_are_applied_or_rejected(tmp_path: Path, registry: Registry) -> None:
    facts = [
        json.dumps({"ts": 1_700_000_000 + n, "monotonic": 5.5 + n, **fact}).encode()
        for n, fact in enumerate(FACTS)
    ]
    feed = {"name": "acme", "venue": "acme", "symbols": ["BTC/USD"], "channels": ["trades"]}
    head = json.dumps({"ts": 1_700_000_000, "feed": feed, "stages": "other"}).encode()
    lines, chance, broken = [head], Random(7), mutants(facts, Random(8))
    for n in range(3000):
        trade = {"s": "BTCUSD", "t": 1_700_000_000_000 + n, "p": "1.5", "q": "2", "i": n}
        line = {"ts": 1_700_000_000 + n / 8, "connection": 1 + n % 2, "frame": json.dumps(trade)}
        lines += [json.dumps(line).encode(), *chance.choices(facts, k=2)]
        lines += [bad.replace(b"\n", b" ") for bad in islice(broken, 4)]
    (tmp_path / "t.jsonl").write_bytes(b"\n".join(lines))
    spec = FeedSpec("acme", ["BTC/USD"], ["trades"], stages=("marker",))
    types: Counter[str] = Counter()
    async with tapeloom.replay(tmp_path / "t.jsonl", spec, registry=registry) as stream:
        async for event in stream:
            assert decode(encode(event)) == event
            assert str(event.received)
            types[event.type] += 1

    assert types["trade"] > 1000
    assert types["gap"] > 10
    assert types["reject"] > 1000


@pytest.mark.thorough
def test_a_mutated_index_is_read_or_raises_tape_error(tmp_path: Path) -> None:
    path = written(tmp_path / "t.ws.jsonl", b"\n".join(LINES))
    (tmp_path / "a.json").write_text("{}")
    index = tmp_path / "t.rest.index.json"
    entries = [
        {
            "url": "http://127.0.0.1/depth",
            "file": "a.json",
            "ts": None,
            "position": "after 2 ws frames",
        },
        {"url": "http://127.0.0.1/depth", "file": "a.json", "ts": 1.6},
    ]
    outcomes: Counter[str] = Counter()
    for content in islice(mutants([json.dumps(entries).encode()], Random(6)), 2000):
        index.write_bytes(content)
        try:
            outcomes["read"] += len(list(Tape(path)))
        except TapeError:
            outcomes["refused"] += 1

    assert outcomes["refused"] > 100
    assert outcomes["read"] > 100
