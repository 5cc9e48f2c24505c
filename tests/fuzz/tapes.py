"""Broken tapes, as files: flipped, cut, repeated, with absurd times; replayed through the whole pipeline."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from random import Random

from tapeloom._tape.compression import compressor
from tapeloom.cli._main import main
from tapeloom_simulator import EPOCH
from tapeloom_testing.fuzz import mutants

from .venues import VenueCase

#: The forms of a tape.
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
#: Bars that the stage `bars` may fill at once, where a tape jumps to a time of the future.
_FILLS = 1000
#: Lines of a tape whose times and forms are absurd.
_LINES = [
    b'{"ts": 9223372035, "frame": "x"}', b'{"ts": -9223372035, "frame": "x"}', b'{"ts": 1e400}',
    b'{"ts": 1E-400, "frame": "x"}', b'{"ts": NaN, "frame": "x"}', b'{"ts": "1", "frame": "x"}',
    b'{"ts": 0, "frame64": "!"}', b'{"ts": null, "url": "http://127.0.0.1/api", "answer": "[]"}',
    b'{"ts": 253402300800, "frame": "x"}', b'{"ts": 1700000000, "feed": {"venue": 1}}', b"[" * 3000,
    b'{"ts": 1700000000, "url": "http://[", "answer": "{}"}', b"9" * 5000, b"\xed\xa0\x80",
]  # fmt: skip


def tape_lines(frames: Sequence[bytes]) -> list[bytes]:
    """Return the lines of a tape of these frames."""
    return [
        json.dumps({"ts": EPOCH / 1e9 + n / 100, "frame": frame.decode()}).encode()
        for n, frame in enumerate(frames)
    ]


def broken_tapes(frames: Sequence[bytes], chance: Random) -> Iterator[tuple[str, bytes]]:
    """Yield the suffix and the bytes of broken tapes, without end."""
    good = tape_lines(frames)
    bad = mutants([*good[:200], *_LINES], chance)
    while True:
        suffix = chance.choice(SUFFIXES)
        start = chance.randrange(max(1, len(good) - 400))
        lines = list(good[start : start + 400])
        if chance.random() < 0.6:  # broken lines, in a file that is whole
            for _ in range(chance.choice((1, 5, 50))):
                line = next(bad) if chance.random() < 0.7 else chance.choice(_LINES)
                lines.insert(chance.randrange(1, len(lines)), line.replace(b"\n", b" "))
            yield suffix, compressor(suffix)(b"\n".join(lines))
        else:
            yield suffix, next(mutants([compressor(suffix)(b"\n".join(lines))], chance))


def replay(place: VenueCase, folder: Path, suffix: str, content: bytes) -> tuple[int, str, int]:
    """Replay a tape; return the exit code, what was printed to standard error, and the bytes printed."""
    path = folder / f"day.ws{suffix}"
    path.write_bytes(content)
    out, err = io.StringIO(), io.StringIO()
    options = [
        "--venue",
        place.venue,
        "--market",
        place.market,
        "--symbols",
        ",".join(place.symbols),
    ]
    options += ["--channels", ",".join(place.channels), "--stages", "quality,books,bars"]
    options += ["--set", "bars.every=1s", "--set", "bars.empty=fill"]
    options += ["--set", f"bars.fill_limit={_FILLS}", "--out", "jsonl"]
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["replay", str(path), *options])
    return code, err.getvalue(), len(out.getvalue())


def replay_all(
    place: VenueCase, frames: Sequence[bytes], folder: Path, count: int, seed: int
) -> tuple[Counter[int], list[str]]:
    """Replay *count* broken tapes; return the exit codes, and what is wrong."""
    codes: Counter[int] = Counter()
    wrong: list[str] = []
    tapes = broken_tapes(frames, Random(seed))
    for number, (suffix, content) in zip(range(count), tapes, strict=False):
        code, err, size = replay(place, folder, suffix, content)
        codes[code] += 1
        whole = len(b"\n".join(tape_lines(frames)))
        if "Traceback" in err or code not in (0, 1):
            wrong.append(f"tape {number}{suffix}: exit code {code}, {err[-300:]}")
        if size > 30 * (len(content) + whole) + 1000 * _FILLS:
            wrong.append(f"tape {number}{suffix}: {size} bytes from {len(content)}")
    return codes, wrong
