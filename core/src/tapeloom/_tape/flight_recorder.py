"""The flight recorder: the last seconds of what came in, kept in memory, and saved when something breaks.

It listens to every feed that has frames, in a bounded piece of memory. Where the stack names a folder,
a gap, a parser error, a storm of rejects or a book that cannot be relied on has what is in memory
written there, as a tape that `tapeloom replay` reads: a bundle.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import anyio
import anyio.to_thread
import structlog

from tapeloom._config import FlightSpec
from tapeloom.plugin import Feed, Request

from .compression import compressor
from .recorder import TAPE, head_of, line_of, line_of_answer

log = structlog.get_logger()

#: Its size, when it came, on which connection, its payloads; for an answer, what was requested.
_Read: TypeAlias = tuple[int, int, int, Sequence[bytes], Request | None]


class FlightRecorder:
    """The flight recorder of one feed; *room* is how many bytes it may hold."""

    def __init__(self, feed: Feed, spec: FlightSpec, room: int) -> None:
        self._feed = feed
        self._unreadable: deque[bytes] = deque(maxlen=_KEPT)  # as lines of a tape, not written yet
        self._spec = spec
        self._room = room
        self._ring: deque[_Read] = deque()
        self._size = 0
        self._seen: dict[str, int] = {}  # what had been counted when we last looked
        self._written = 0  # bytes of bad frames
        self._saved: list[Path] = []

    # ------------------------------------------------------------------------------------ listening

    def frames(self, connection: int, recv: int, payloads: Sequence[bytes], size: int) -> None:
        """Take what one read has brought: the hot path."""
        size += _EACH * len(payloads)
        self._ring.append((size, recv, connection, payloads, None))
        self._size += size
        if self._size > self._room:
            self._forget()

    def answer(self, recv: int, request: Request, body: bytes) -> None:
        """Take an answer over REST, unless it would push out most of the rest."""
        if 2 * len(body) <= self._room:
            self._ring.append((len(body) + _EACH, recv, 0, (body,), request))
            self._size += len(body) + _EACH
            self._forget()

    def unreadable(self, recv: int, frame: bytes, error: str) -> None:
        """Take a frame that nobody could read, to be written into a tape of its own."""
        self._unreadable.append(line_of(recv, frame[:_LONGEST], error=error))

    def _forget(self) -> None:
        while self._size > self._room:
            self._size -= self._ring.popleft()[0]

    # --------------------------------------------------------------------------------------- saving

    async def run(self) -> None:
        """Look once a second whether something is wrong, until cancelled."""
        if not self._spec.folder:
            return
        clock, why, apart = self._feed.clock, "", 0.0
        try:
            while True:
                await clock.sleep(_LOOK)
                await self._set_aside()
                why = self._incident()
                if why and clock.monotonic() >= apart:
                    await clock.sleep(_AFTER)  # what follows tells as much as what went before
                    await self._save(why)
                    why, apart = "", clock.monotonic() + self._spec.seconds
        finally:
            with anyio.CancelScope(shield=True):
                await self._set_aside()
                if why := why or self._incident():
                    await self._save(why)

    def _incident(self) -> str:
        """Return what has gone wrong since the last look, nothing where all is well."""
        counters = self._feed.counters
        rejects = sum(number for name, number in counters.items() if name.startswith("reject."))
        now = {name: counters[name] for name in _SIGNS if name in counters} | {"rejects": rejects}
        seen, self._seen = self._seen, now
        grown = {name: number - seen.get(name, 0) for name, number in now.items()}
        if grown["rejects"] < _STORM:
            del grown["rejects"]
        return "-".join(name for name, more in grown.items() if more > 0)

    async def _save(self, why: str) -> None:
        folder = Path(self._spec.folder)
        try:
            path = await self.save(folder, why)
        except OSError as error:
            self._failed(folder, error)
            return
        log.warning("flight_saved", feed=self._feed.name, why=why, path=str(path))
        self._saved.append(path)
        while len(self._saved) > self._spec.keep:
            self._saved.pop(0).unlink(missing_ok=True)

    def _failed(self, path: Path, error: OSError) -> None:
        self._feed.counters["flight_errors"] += 1
        log.error("flight_failed", feed=self._feed.name, path=str(path), reason=str(error))

    async def save(self, folder: Path, why: str) -> Path:
        """Write what is in memory into *folder*; return the path. Raises OSError."""
        now = self._feed.clock.time_ns()
        since = now - round(self._spec.seconds * 1_000_000_000)
        kept = [one for one in self._ring if one[1] >= since]
        name = f"{self._feed.name}-{_stamp(now)}-{why}{TAPE}"
        head = head_of(self._feed, why=why, counters=dict(self._feed.counters))
        await anyio.to_thread.run_sync(_write, folder / name, head, kept)
        return folder / name

    async def _set_aside(self) -> None:
        """Write the bad frames that are new, up to a size, into a tape of their own."""
        lines = list(self._unreadable)
        self._unreadable.clear()
        path = Path(self._spec.folder) / f"{self._feed.name}-bad.jsonl"
        if not lines or self._written + sum(map(len, lines)) > _BAD:
            return
        self._written += sum(map(len, lines))
        head = head_of(self._feed)
        try:
            await anyio.to_thread.run_sync(_append, path, head, b"".join(lines))
        except OSError as error:
            self._failed(path, error)


def _write(path: Path, head: bytes, kept: list[_Read]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [head]
    for _, recv, connection, payloads, request in kept:
        if request is not None:
            lines.append(line_of_answer(recv, request, payloads[0]))
        else:
            lines += [line_of(recv, frame, connection=connection) for frame in payloads]
    data = compressor(path.suffix)(b"".join(lines))
    # Whoever finds the bundle finds it whole.
    half = path.with_name(f".{path.name}.{os.getpid()}")
    half.write_bytes(data)
    half.replace(path)


def _append(path: Path, head: bytes, lines: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(lines if file.tell() else head + lines)


def _stamp(ns: int) -> str:
    """Return a time as a file may be named after it."""
    seconds, rest = divmod(ns, 1_000_000_000)
    day = time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds))
    return f"{day}.{rest // 1_000_000:03d}Z"


#: What is counted when something breaks; besides them, the rejects.
_SIGNS = ("gaps", "unreadable_frames", "stale_books", "crossed_books")
#: So many rejects between two looks are a storm.
_STORM = 10
#: Seconds between two looks, and from an incident to its bundle.
_LOOK, _AFTER = 1.0, 2.0
#: What a frame takes in memory beside its bytes.
_EACH = 64
#: So many unreadable frames are kept until they are written, and so many bytes of each.
_KEPT, _LONGEST = 100, 65_536
#: Bytes of bad frames that are written, at the most.
_BAD = 16 << 20
