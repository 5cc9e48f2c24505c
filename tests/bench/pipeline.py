"""In memory: parse → quality → 1-minute bars → a consumer's queue, against decoding alone.

The floor is msgspec decoding the same frames, each field of them, into a Struct, and nothing else. Only the ratios count: absolute figures do not repeat from run to run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import msgspec
from tapeloom import FeedSpec, QueueSpec, Stack
from tapeloom._stream.queues import Queue
from tapeloom.harness import ComposedFeed, compose_feed
from tapeloom.plugin import Frames

sys.path.insert(0, str(Path(__file__).parent))
import frames


class Data(msgspec.Struct):
    e: str
    E: int
    s: str
    t: int
    p: Decimal
    q: Decimal
    T: int
    m: bool
    M: bool


class Push(msgspec.Struct):
    stream: str
    data: Data


def floor(payloads: list[bytes]) -> float:
    """Return seconds for decoding alone."""
    decode = msgspec.json.Decoder(Push).decode
    began = time.perf_counter()
    for payload in payloads:
        decode(payload)
    return time.perf_counter() - began


def plan(symbols: int, stages: tuple[str, ...]) -> ComposedFeed:
    """Return a composed feed."""
    feed = FeedSpec(
        "binance", tuple(frames.unified(symbols)), ("trades",), market="spot", stages=stages
    )
    stack = Stack(feeds=(feed,), stages={"bars": {"every": "1m"}})
    return compose_feed(stack, seed=None)


def pipeline(
    payloads: list[bytes], batch: int, symbols: int, stages: tuple[str, ...]
) -> tuple[float, int]:
    """Return seconds for the whole pipeline, and how many events came out."""
    composed = plan(symbols, stages)
    parse, run = composed.parse, composed.process
    queue = Queue(QueueSpec(size=10_000_000))
    # Each batch is read when its last trade is made: time on the wire and here go at one pace.
    groups = [
        Frames(payloads[n : n + batch], (frames.START_MS + 2 * (n + batch)) * 1_000_000)
        for n in range(0, len(payloads), batch)
    ]
    out = 0
    began = time.perf_counter()
    for group in groups:
        queue.put_nowait(run(parse(group)))
        out += len(queue.get_nowait())
    return time.perf_counter() - began, out


def measure(
    count: int, rounds: int, batch: int, symbols: int, stages: tuple[str, ...], *, holes: bool
) -> tuple[float, float, float]:
    """Return ns a frame of the floor and of the pipeline, and their ratio.

    The two are run in turn, in short rounds, and the best of each is taken: whatever else runs on
    the machine can only make a round longer.
    """
    # With many symbols more frames, in fewer rounds: each must have some trades after its first.
    count = max(count, 200 * symbols)
    payloads = frames.trades(count, symbols, holes=holes)
    floors, ours = [], []
    for _ in range(rounds if symbols <= 100 else 3):
        floors.append(floor(payloads))
        took, out = pipeline(payloads, batch, symbols, stages)
        assert out >= count
        ours.append(took)
    best, least = min(floors) / count * 1e9, min(ours) / count * 1e9
    return best, least, least / best


def main(report: Callable[[str], None] = print) -> None:
    """Measure every case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    report(
        f"{'stages':<16} {'symbols':>7} {'batch':>6} {'floor ns':>9} {'ours ns':>9} {'ratio':>6}"
    )
    cases: list[tuple[tuple[str, ...], int, int, bool]] = [
        ((), 10, 64, False),
        (("quality",), 10, 64, False),
        (("quality",), 3, 64, True),
        (("bars",), 10, 64, False),
        (("quality", "bars"), 10, 1, False),
        (("quality", "bars"), 10, 64, False),
        (("quality", "bars"), 10, 256, False),
        (("quality", "bars"), 1000, 64, False),
    ]
    for stages, symbols, batch, holes in cases:
        base, ours, ratio = measure(args.count, args.rounds, batch, symbols, stages, holes=holes)
        name = ("+".join(stages) or "parse only") + (", holes" if holes else "")
        report(f"{name:<16} {symbols:>7} {batch:>6} {base:>9.0f} {ours:>9.0f} {ratio:>6.2f}")


if __name__ == "__main__":
    main()
