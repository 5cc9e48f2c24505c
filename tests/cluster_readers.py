"""Readers of what a cluster publishes, as processes, and a comparison of their stores with the truth.

A reader is what a user runs: a stack with the venue `nats` that stores into files.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import anyio
from attrs import define
from tapeloom.events import Event, Gap, Trade, decode
from tapeloom_nats import Settings
from tapeloom_nats.connection import Connection
from tapeloom_nats.state import load_cursor
from tapeloom_nats.stream import find

READER = """
[[feed]]
venue = "nats"

[venue.nats]
servers = {servers}
start = "first"
cursor = "{name}"

[[sink]]
use = "files"
path = "events"
"""

#: What happened, by venue and symbol: the trades of the market, in their order.
TrueTrades: TypeAlias = Mapping[tuple[str, str], Sequence[Any]]
MS = 1_000_000
#: How many differences are told in words.
_LINES = 20


@define(eq=False)
class Reader:
    """A process that merges and stores what the nodes publish."""

    folder: Path
    servers: Sequence[str]
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin to read, or continue where the store stands."""
        self.folder.mkdir(exist_ok=True)
        text = READER.format(servers=[*self.servers], name=self.folder.name)
        (self.folder / "stack.toml").write_text(text)
        with (self.folder / "errors.txt").open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tapeloom", "run", "stack.toml", "--out", "none"],
                cwd=self.folder, stderr=errors, stdout=subprocess.DEVNULL,
            )  # fmt: skip

    def kill(self) -> None:
        """Kill the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    async def stored(self) -> list[Event]:
        """Wait until everything in the stream is read, stop, and return what is stored, in its order."""
        assert self._process is not None
        settings = Settings(servers=tuple(self.servers))
        connection = Connection(settings)
        await connection.open()
        try:
            with anyio.fail_after(120):
                info = await find(connection, settings.stream)
                assert info is not None
                while True:
                    name = self.folder.name
                    cursor = await load_cursor(connection, settings.stream, name, "nats")
                    if cursor is not None and cursor.number >= info.last:
                        break
                    assert self._process.poll() is None, self.errors()
                    await anyio.sleep(0.2)
        finally:
            await connection.close()
        self._process.send_signal(signal.SIGINT)
        code = await anyio.to_thread.run_sync(lambda: self._process.wait(15))
        self._process = None
        assert code == 0, self.errors()
        files = sorted((self.folder / "events").glob("*.jsonl*"))
        return [decode(line) for file in files for line in file.read_bytes().splitlines()]

    def errors(self) -> str:
        """Return what the process has logged."""
        return f"{self.folder.name}: " + (self.folder / "errors.txt").read_text()[-2000:]


@contextlib.contextmanager
def reader(folder: Path, servers: Sequence[str], name: str = "reader") -> Iterator[Reader]:
    """Yield a reader that was started; kill it if it is left."""
    made = Reader(folder / name, servers)
    made.start()
    try:
        yield made
    finally:
        made.kill()


# ---------------------------------------------------------------------------------------- comparison


class Differences(Counter[str]):
    """How many of which kind there are, and the first ones in words."""

    def __init__(self, **counts: int) -> None:
        super().__init__(**counts)
        self.lines: list[str] = []

    def note(self, kind: str, *what: object) -> None:
        """Count one."""
        self[kind] += 1
        if len(self.lines) < _LINES:
            self.lines.append(" ".join(map(str, (kind, *what))))

    def __str__(self) -> str:
        return "\n".join([str(dict(self)), *self.lines])


def compare(
    events: Iterable[Event], truth: TrueTrades, *, since: int = 0, until: int | None = None
) -> Differences:
    """Count how the stored *events* differ from the *truth*.

    Missing is what is not there of the trades from *since* to *until*, in ns of the market; without *until* those
    after the last one of a symbol are not. Unnamed is what is missing and in no gap. A gap whose last state is
    ``filled`` names nothing.
    """
    counts = Differences()
    trades: defaultdict[tuple[str, str], list[Trade]] = defaultdict(list)
    gaps: dict[Any, Gap] = {}
    for event in events:
        if isinstance(event, Gap):
            gaps[event.identity] = event
        elif isinstance(event, Trade):
            trades[event.venue, event.symbol].append(event)
    left = [gap for gap in gaps.values() if gap.state != "filled"]
    counts["gaps"] = len(left)
    counts["invented"] = sum(len(found) for key, found in trades.items() if key not in truth)
    for key, expected in truth.items():
        about = [gap for gap in left if gap.venue == key[0] and gap.symbol in (key[1], "")]
        _compare_one(counts, trades[key], expected, about, since, until)
    return counts


def _compare_one(
    counts: Differences,
    trades: Sequence[Trade],
    expected: Sequence[Any],
    gaps: Sequence[Gap],
    since: int,
    until: int | None,
) -> None:
    """Count the differences in one symbol.

    A trade is found in the truth by price, size and time, because each venue has ids of its own kind. Equal ones
    are taken in their order.
    """
    if not trades:
        counts["symbols without trades"] += 1
        return
    waiting: defaultdict[Any, deque[int]] = defaultdict(deque)
    for index, trade in enumerate(expected):
        waiting[_key(trade)].append(index)
    places: dict[str, int] = {}  # of the ids of the venue in the truth
    last, found = -1, set[int]()
    for trade in trades:
        same = waiting[_key(trade)]
        if str(trade.id) in places:
            counts.note("twice", trade)
        elif not same:
            counts.note("invented", trade)
        else:
            places[str(trade.id)] = place = same.popleft()
            found.add(place)
            if trade.origin == "live":
                if place < last:
                    counts.note("out of order", trade, "after", expected[last])
                last = place
    if until is None:
        until = expected[max(found, default=0)].ts
    since = max(since, expected[min(found, default=0)].ts)
    for index, trade in enumerate(expected):
        if since <= trade.ts <= until:
            counts["expected"] += 1
            if index not in found:
                counts["missing"] += 1
                if not any(_holds(gap, index, expected, places) for gap in gaps):
                    counts.note("unnamed", trades[0].venue, trades[0].symbol, trade)


def _holds(gap: Gap, index: int, expected: Sequence[Any], places: Mapping[str, int]) -> bool:
    """Return whether a gap names the trade with this place in the truth.

    Of equal trades at its edge it is not known which one was delivered.
    """
    after, before = places.get(str(gap.after_id)), places.get(str(gap.before_id))
    trade = expected[index]
    if after is not None and before is not None:
        edges = {_key(expected[after]), _key(expected[before])}
        return after < index < before or _key(trade) in edges
    return gap.since // MS <= trade.ts // MS <= gap.until // MS


def _key(trade: Any) -> tuple[Any, ...]:
    """Return what a trade is recognised by."""
    return trade.price, trade.size, trade.ts // MS
