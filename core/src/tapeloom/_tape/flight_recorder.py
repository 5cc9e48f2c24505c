"""`FlightRecorder`: keeps the last seconds of received frames in memory, and saves them after a failure.

It taps the frames of one feed into a ring buffer of bounded size. If the stack names a folder, then a
gap, a parser error, many rejects at once, or a stale or crossed book makes it write the buffer there as
a tape that `tapeloom replay` reads. Such a file is called a bundle.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import anyio
import anyio.to_thread
import structlog

from tapeloom._config import FlightSpec
from tapeloom._runtime.taps import FactName
from tapeloom.plugin import Feed, Request, Subscription

from .compression import compressor
from .recorder import TAPE, answer_line, fact_line, frame_line, frame_lines, head_line

log = structlog.get_logger()

#: Counters whose growth triggers a bundle, besides those of rejects.
_ALARM_COUNTERS = ("gaps", "unreadable_frames", "stale_books", "crossed_books")
#: Rejects between two checks that trigger a bundle; fewer are normal at most venues.
_REJECT_BURST = 10
#: Seconds between two checks of the counters.
_CHECK_SECONDS = 1.0
#: Seconds from an incident to its bundle, so that the bundle also shows what followed.
_AFTER_SECONDS = 2.0
#: Estimated bytes of memory that a frame needs besides its payload.
_FRAME_OVERHEAD = 64
#: Unreadable frames kept in memory until they are written.
_MAX_UNREADABLE = 100
#: Bytes that are kept of each unreadable frame.
_MAX_UNREADABLE_BYTES = 65_536
#: Total bytes of unreadable frames that are written, so that a broken venue cannot fill the disk.
_MAX_BAD_FILE_BYTES = 16 << 20

#: One read: size in bytes, receive time in ns, connection number, payloads. For a REST response the
#: payload is its body and the last item is the request; for a fact the payload is its line.
_Read: TypeAlias = tuple[int, int, int, Sequence[bytes], "Request | Literal['fact'] | None"]


class FlightRecorder:
    """The flight recorder of one feed. It holds at most *max_bytes* of memory.

    *live* are the feed's live subscriptions: a bundle begins with them.
    """

    def __init__(
        self, feed: Feed, spec: FlightSpec, max_bytes: int, live: Collection[Subscription] = ()
    ) -> None:
        self._feed = feed
        self._live = live
        self._unreadable: deque[bytes] = deque(maxlen=_MAX_UNREADABLE)  # lines not written yet
        self._spec = spec
        self._max_bytes = max_bytes
        self._ring: deque[_Read] = deque()
        self._size = 0
        self._seen: dict[str, int] = {}  # counters at the last check
        self._written = 0  # bytes of unreadable frames
        self._saved: list[Path] = []

    # -------------------------------------------------------------------------------------- recording

    def frames(self, connection: int, recv: int, payloads: Sequence[bytes], size: int) -> None:
        """Add the frames of one read to the buffer. This is on the hot path."""
        size += _FRAME_OVERHEAD * len(payloads)
        self._ring.append((size, recv, connection, payloads, None))
        self._size += size
        if self._size > self._max_bytes:
            self._drop_oldest()

    def answer(self, recv: int, request: Request, body: bytes) -> None:
        """Add a REST response, unless it would take more than half of the buffer."""
        if 2 * len(body) <= self._max_bytes:
            self._ring.append((len(body) + _FRAME_OVERHEAD, recv, 0, (body,), request))
            self._size += len(body) + _FRAME_OVERHEAD
            self._drop_oldest()

    def fact(self, ts: int, monotonic: float, name: FactName, fields: Mapping[str, Any]) -> None:
        """Add a fact to the buffer."""
        line = fact_line(ts, monotonic, name, fields)
        self._ring.append((len(line) + _FRAME_OVERHEAD, ts, 0, (line,), "fact"))
        self._size += len(line) + _FRAME_OVERHEAD
        self._drop_oldest()

    def unreadable(self, recv: int, frame: bytes, error: str) -> None:
        """Add an unreadable frame to those that are written to the file of bad frames."""
        self._unreadable.append(frame_line(recv, frame[:_MAX_UNREADABLE_BYTES], error=error))

    def _drop_oldest(self) -> None:
        while self._size > self._max_bytes:
            self._size -= self._ring.popleft()[0]

    # --------------------------------------------------------------------------------------- saving

    async def run(self) -> None:
        """Check the counters once a second and save bundles, until cancelled."""
        if not self._spec.folder:
            return
        clock, incident, not_before = self._feed.clock, "", 0.0
        try:
            while True:
                await clock.sleep(_CHECK_SECONDS)
                await self._write_unreadable()
                incident = self._incident()
                if incident and clock.monotonic() >= not_before:
                    await clock.sleep(_AFTER_SECONDS)
                    await self._save(incident)
                    incident, not_before = "", clock.monotonic() + self._spec.seconds
        finally:
            with anyio.CancelScope(shield=True):
                await self._write_unreadable()
                if incident := incident or self._incident():
                    await self._save(incident)

    def _incident(self) -> str:
        """Return the names of the counters that have grown since the last check, joined by "-"."""
        counters = self._feed.counters
        rejects = sum(number for name, number in counters.items() if name.startswith("reject."))
        now = {name: counters[name] for name in _ALARM_COUNTERS if name in counters}
        now["rejects"] = rejects
        seen, self._seen = self._seen, now
        grown = {name: number - seen.get(name, 0) for name, number in now.items()}
        if grown["rejects"] < _REJECT_BURST:
            del grown["rejects"]
        return "-".join(name for name, increase in grown.items() if increase > 0)

    async def _save(self, incident: str) -> None:
        folder = Path(self._spec.folder)
        try:
            path = await self.save(folder, incident)
        except OSError as error:
            self._report_failure(folder, error)
            return
        log.warning("flight_saved", feed=self._feed.name, why=incident, path=str(path))
        self._saved.append(path)
        while len(self._saved) > self._spec.keep:
            self._saved.pop(0).unlink(missing_ok=True)

    def _report_failure(self, path: Path, error: OSError) -> None:
        self._feed.counters["flight_errors"] += 1
        log.error("flight_failed", feed=self._feed.name, path=str(path), reason=str(error))

    async def save(self, folder: Path, incident: str) -> Path:
        """Write the buffer to a bundle in *folder* and return its path.

        *incident* becomes part of the file name. Raises OSError.
        """
        now = self._feed.clock.time_ns()
        since = now - round(self._spec.seconds * 1_000_000_000)
        reads = [read for read in self._ring if read[1] >= since]
        name = f"{self._feed.name}-{_timestamp(now)}-{incident}{TAPE}"
        head = head_line(self._feed, why=incident, counters=dict(self._feed.counters))
        began, live = reads[0][1] if reads else now, {"of": [*self._live], "replied_at": None}
        monotonic = self._feed.clock.monotonic() - (now - began) / 1e9
        head += fact_line(began, monotonic, "live", live)
        await anyio.to_thread.run_sync(_write, folder / name, head, reads)
        return folder / name

    async def _write_unreadable(self) -> None:
        """Append the new unreadable frames to the feed's file of bad frames, up to its maximum size."""
        lines = list(self._unreadable)
        self._unreadable.clear()
        path = Path(self._spec.folder) / f"{self._feed.name}-bad.jsonl"
        if not lines or self._written + sum(map(len, lines)) > _MAX_BAD_FILE_BYTES:
            return
        self._written += sum(map(len, lines))
        head = head_line(self._feed, stages="")
        try:
            # A cancellation before the thread begins would lose the lines.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_append, path, head, b"".join(lines))
        except OSError as error:
            self._report_failure(path, error)


def _write(path: Path, head: bytes, reads: list[_Read]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [head]
    for _, recv, connection, payloads, request in reads:
        if request == "fact":
            lines += payloads
        elif request is not None:
            lines.append(answer_line(recv, request, payloads[0]))
        else:
            lines += frame_lines(connection, recv, payloads)
    data = compressor(path.suffix)(b"".join(lines))
    # Rename a finished file, so that nobody reads a half-written bundle.
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(data)
    partial.replace(path)


def _append(path: Path, head: bytes, lines: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(lines if file.tell() else head + lines)


def _timestamp(ns: int) -> str:
    """Return a time in ns as UTC text for a file name, such as 20231114T221320.000Z."""
    seconds, rest = divmod(ns, 1_000_000_000)
    day = time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds))
    return f"{day}.{rest // 1_000_000:03d}Z"
