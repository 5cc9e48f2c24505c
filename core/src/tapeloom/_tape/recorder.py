"""Recording: what came in, when, on which connection, as a tape that can be replayed.

A tape is a file of JSON lines. The first one says of which feed it is; then there is one for each
frame that a server sent and one for each answer over REST. What we send is not recorded: it may
hold keys. Lines are written once a second, each second as a compressed piece of its own, so that a
process that is killed has lost one second, and what stands on the disk can be read.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import structlog

from tapeloom.errors import TapeError
from tapeloom.plugin import Clock, Feed, Request

from .compression import compressor

log = structlog.get_logger()

#: How the name of a tape ends.
TAPE = ".jsonl.zst"
#: A tape is written every so many seconds.
EVERY = 1.0
#: Where a second's lines do not fit, so many are written at a time.
_FEW = 20
#: What waits to be written may grow to so many bytes; beyond it, frames are counted and not kept.
_ROOM = 64 << 20


class Recorder:
    """Writes the tape of one feed. A disk that is full costs the tape, not the stream."""

    def __init__(self, path: Path, feed: Feed, clock: Clock) -> None:
        self._path = path
        self._feed = feed
        self._clock = clock
        self._compress: Callable[[bytes], bytes] = compressor(path.suffix)
        self._waiting: list[bytes] = []
        self._size = 0
        self._lost = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except OSError as error:
            raise TapeError(path, 0, f"cannot be written: {error.strerror or error}.") from error
        self._written = 0
        self._put(head_of(feed))

    def frames(self, connection: int, recv: int, payloads: Sequence[bytes], size: int) -> None:
        """Take what one read has brought."""
        for payload in payloads:
            self._put(line_of(recv, payload, connection=connection))

    def answer(self, recv: int, request: Request, body: bytes) -> None:
        """Take an answer over REST."""
        self._put(line_of_answer(recv, request, body))

    def _put(self, line: bytes) -> None:
        if self._size + len(line) > _ROOM:
            self._lost += 1
            return
        self._waiting.append(line)
        self._size += len(line)

    def unreadable(self, recv: int, frame: bytes, error: str) -> None:
        """Do nothing: the frame has been written with all others."""

    async def run(self) -> None:
        """Write, once a second, until cancelled; then write what is left."""
        try:
            while True:
                await self._clock.sleep(EVERY)
                await self.flush()
        finally:
            with anyio.CancelScope(shield=True):
                await self.flush()
            os.close(self._file)

    async def flush(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        lines, self._waiting, self._size = self._waiting, [], 0
        try:
            await anyio.to_thread.run_sync(self._write_lines, lines)
        except OSError as error:
            # What is left is kept, and tried again with the next, for as long as there is room.
            self._waiting[:0] = lines
            self._size += sum(map(len, lines))
            self._feed.counters["tape_errors"] += 1
            log.error("tape_failed", feed=self._feed.name, path=str(self._path), reason=str(error))
            return
        if self._lost:
            self._feed.counters["tape_lost"] += self._lost
            log.error("tape_incomplete", feed=self._feed.name, frames_lost=self._lost)
            self._lost = 0

    def _write_lines(self, lines: list[bytes]) -> None:
        """Write *lines* and take them out of the list: at once, or as many as there is room for.

        Raises OSError where some are left.
        """
        try:
            self._write(b"".join(lines))
            lines.clear()
        except OSError:
            while lines:
                self._write(b"".join(lines[:_FEW]))
                del lines[:_FEW]

    def _write(self, piece: bytes) -> None:
        data = memoryview(self._compress(piece))
        done = 0
        try:
            while done < len(data):
                done += os.write(self._file, data[done:])
        except OSError:
            # Half a piece would make all that follows unreadable.
            os.ftruncate(self._file, self._written)
            os.lseek(self._file, self._written, os.SEEK_SET)
            raise
        self._written += done


def line_of(ts: int, frame: bytes, **more: Any) -> bytes:
    """Return the line of a tape for *frame*, received at *ts*."""
    return _line(ts, {**more, **_text("frame", frame)})


def line_of_answer(recv: int, request: Request, body: bytes) -> bytes:
    """Return the line of a tape for the answer to *request*."""
    line = {"url": request.url, **_text("request", request.body), **_text("answer", body)}
    return _line(recv, line)


def head_of(feed: Feed, **more: Any) -> bytes:
    """Return the first line of a tape: what it is of."""
    what = {
        "name": feed.name,
        "venue": feed.venue,
        "market": feed.market,
        "symbols": list(feed.symbols),
        "channels": list(feed.channels),
    }
    return _line(feed.clock.time_ns(), {"feed": what, **more})


def _text(name: str, content: bytes) -> dict[str, str]:
    """Return *content* under *name*; what is no text, under the name with ``64`` behind it."""
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}64": base64.b64encode(content).decode()}


def _line(ts: int, rest: dict[str, Any]) -> bytes:
    # Seconds with all nine digits: a float has not as many.
    body = json.dumps(rest, ensure_ascii=False, separators=(",", ":"))
    return f'{{"ts":{ts // 1_000_000_000}.{ts % 1_000_000_000:09d},{body[1:]}\n'.encode()
