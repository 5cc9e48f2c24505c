"""`Recorder`: writes the received frames and REST responses of one feed to a tape, for replay.

A tape is a file of JSON lines. The first line describes the feed. Each further line is a frame that a
server sent, or a REST response, with its receive time, or a fact: what the feed did, in its order among
the frames. Sent messages are not recorded, because they may contain keys. Lines are written once a second, each time as a separate compressed block, so that a
process that is killed loses at most one second and the file stays readable.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import structlog

from tapeloom._runtime.taps import FactName
from tapeloom.errors import TapeError, masked
from tapeloom.plugin import Clock, Feed, Request

from .compression import compressor

log = structlog.get_logger()

#: Ending of the file name of a tape.
TAPE = ".jsonl.zst"
#: Seconds between two writes to a tape.
_WRITE_SECONDS = 1.0
#: Lines per block when the disk has no room for a whole second: what still fits is written.
_SMALL_BLOCK = 20
#: Maximum bytes of lines in memory; when the disk fails for longer, further lines are only counted.
_MAX_PENDING_BYTES = 64 << 20


class Recorder:
    """Writes the tape of one feed. If the disk is full, the tape loses lines but the stream continues.

    If *path* exists, the tape gets the first free name of those with a number: ``NAME.2.jsonl.zst``.

    Raises TapeError if the file cannot be created.
    """

    def __init__(self, path: Path, feed: Feed, clock: Clock) -> None:
        self._feed = feed
        self._clock = clock
        self._compress: Callable[[bytes], bytes] = compressor(path.suffix)
        self._pending: list[bytes] = []
        self._size = 0
        self._lost = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._path, self._file = _create(path)
        except OSError as error:
            raise TapeError(path, 0, f"cannot be written: {error.strerror or error}.") from error
        self._written = 0
        self._append(head_line(feed))

    def frames(self, connection: int, recv: int, payloads: Sequence[bytes], size: int) -> None:
        """Record frames that were parsed together."""
        for line in frame_lines(connection, recv, payloads):
            self._append(line)

    def answer(self, recv: int, request: Request, body: bytes) -> None:
        """Record a REST response."""
        self._append(answer_line(recv, request, body))

    def fact(self, ts: int, monotonic: float, name: FactName, fields: Mapping[str, Any]) -> None:
        """Record a fact."""
        self._append(fact_line(ts, monotonic, name, fields))

    def _append(self, line: bytes) -> None:
        if self._size + len(line) > _MAX_PENDING_BYTES:
            self._lost += 1
            return
        self._pending.append(line)
        self._size += len(line)

    def unreadable(self, recv: int, frame: bytes, error: str) -> None:
        """Do nothing: `frames` has recorded the frame already."""

    async def run(self) -> None:
        """Write once a second until cancelled, then write the remaining lines and close the file."""
        try:
            while True:
                await self._clock.sleep(_WRITE_SECONDS)
                await self.flush()
        finally:
            with anyio.CancelScope(shield=True):
                await self.flush()
            os.close(self._file)

    async def flush(self) -> None:
        """Write the pending lines. If that fails, keep those that were not written for the next time."""
        if not self._pending:
            return
        lines, self._pending, self._size = self._pending, [], 0
        try:
            # A cancellation before the thread begins would lose the lines.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._write_lines, lines)
        except OSError as error:
            self._pending[:0] = lines
            self._size += sum(map(len, lines))
            self._feed.counters["tape_errors"] += 1
            log.error("tape_failed", feed=self._feed.name, path=str(self._path), reason=str(error))
            return
        if self._lost:
            self._feed.counters["tape_lost"] += self._lost
            log.error("tape_incomplete", feed=self._feed.name, frames_lost=self._lost)
            self._lost = 0

    def _write_lines(self, lines: list[bytes]) -> None:
        """Write *lines* and remove them from the list: as one block, or in small blocks if that fails.

        Raises OSError if some could not be written.
        """
        try:
            self._write(b"".join(lines))
            lines.clear()
        except OSError:
            while lines:
                self._write(b"".join(lines[:_SMALL_BLOCK]))
                del lines[:_SMALL_BLOCK]

    def _write(self, block: bytes) -> None:
        data = memoryview(self._compress(block))
        done = 0
        try:
            while done < len(data):
                done += os.write(self._file, data[done:])
        except OSError:
            # Remove the partial block: it would make everything after it unreadable.
            os.ftruncate(self._file, self._written)
            os.lseek(self._file, self._written, os.SEEK_SET)
            raise
        self._written += done


def _create(path: Path) -> tuple[Path, int]:
    """Create *path*, or the first free name with a number; return the name and the file descriptor."""
    name, dot, ending = (
        path.name.rpartition(TAPE) if path.name.endswith(TAPE) else path.name.rpartition(".")
    )
    for number in count(1):
        numbered = path.with_name(f"{name}.{number}{dot}{ending}") if number > 1 else path
        try:
            return numbered, os.open(numbered, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            continue
    raise AssertionError("unreachable")


def frame_line(ts: int, frame: bytes, **fields: Any) -> bytes:
    """Return the tape line of *frame*, received at *ts* in ns, with further *fields*."""
    return _line(ts, {**fields, **_text("frame", frame)})


def frame_lines(connection: int, recv: int, payloads: Sequence[bytes]) -> list[bytes]:
    """Return the tape lines of frames that were parsed together; the first line has their number."""
    lines = [frame_line(recv, payload, connection=connection) for payload in payloads]
    if (number := len(lines)) > 1:
        lines[0] = frame_line(recv, payloads[0], connection=connection, together=number)
    return lines


def fact_line(ts: int, monotonic: float, name: FactName, fields: Mapping[str, Any]) -> bytes:
    """Return the tape line of a fact."""
    return _line(ts, {"monotonic": monotonic, "fact": name, **fields})


def answer_line(recv: int, request: Request, body: bytes) -> bytes:
    """Return the tape line of the response to *request*, received at *recv* in ns."""
    line = {"url": masked(request.url), **_text("request", request.body), **_text("answer", body)}
    return _line(recv, line)


def head_line(feed: Feed, **fields: Any) -> bytes:
    """Return the first line of a tape, which describes *feed*, with further *fields*.

    Its `stages` shows that the tape has facts; a tape without must pass an empty one.
    """
    description = {
        "name": feed.name,
        "venue": feed.venue,
        "market": feed.market,
        "symbols": list(feed.symbols),
        "channels": list(feed.channels),
    }
    line = {"feed": description, "stages": stages_digest(feed), **fields}
    return _line(feed.clock.time_ns(), line)


def stages_digest(feed: Feed) -> str:
    """Return a text that is the same for feeds with the same stages and settings of these."""
    stages = repr((feed.stages, sorted(feed.stage_settings.items())))
    return hashlib.sha256(stages.encode()).hexdigest()[:16]


def _text(name: str, content: bytes) -> dict[str, str]:
    """Return *content* under the key *name*, or in base64 under *name* + ``64`` if not UTF-8 text."""
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}64": base64.b64encode(content).decode()}


def _line(ts: int, fields: dict[str, Any]) -> bytes:
    # The time is written as text with nine decimals: a float would lose digits.
    body = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    return f'{{"ts":{ts // 1_000_000_000}.{ts % 1_000_000_000:09d},{body[1:]}\n'.encode()
