"""Compression of tapes, chosen by the ending of the file name: ``.zst``, ``.gz`` or none.

A compressed tape is a sequence of frames, each of which can be decompressed on its own: a recorder writes
one a second. So a damaged frame costs only itself.
"""

from __future__ import annotations

import gzip
import os
import stat
import sys
import zlib
from collections.abc import Callable, Generator, Iterator
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any

from attrs import frozen

#: Bytes that are read from a file, or decompressed, at a time.
_CHUNK_BYTES = 1 << 20
#: Largest decompressed frame of which nothing is yielded before its checksum was found right. A recorder
#: writes smaller ones; a frame that is a whole day must not be held in memory.
_MAX_HELD_BYTES = 16 << 20
#: Places that are tried, one after another, to find the next frame behind damaged data.
_MAX_TRIES = 1000


@frozen
class Damage:
    """A stretch of a file, from byte *start* to byte *end*, that cannot be decompressed."""

    start: int
    end: int
    reason: str

    def __str__(self) -> str:
        return f"bytes {self.start} to {self.end} of the file are damaged: {self.reason}"


class _Gunzip:
    """A decompressor of one gzip frame, with the interface of `ZstdDecompressor`."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data


def _zstd() -> Any:
    """Return the zstd module. It is imported only when a tape needs it."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def compressor(suffix: str) -> Callable[[bytes], bytes]:
    """Return a function that compresses data into a frame that can be read independently of others."""
    if suffix == ".zst":
        zstd = _zstd()
        return partial(zstd.compress, options={zstd.CompressionParameter.checksum_flag: 1})
    return gzip.compress if suffix == ".gz" else bytes


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading. Raises OSError for a pipe or device, which might block or never end."""
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError("it is not a regular file, but a folder, a pipe or a device")
    return os.fdopen(number, "rb")


def content(file: BufferedReader, suffix: str) -> Iterator[bytes | Damage]:
    """Yield the decompressed content of a file in pieces, with a Damage where some of it is lost.

    Raises EOFError if the file ends within a frame, ValueError if no frame follows the damaged one; what
    could be decompressed of that last frame was yielded.
    """
    if suffix == ".zst":
        new, magic, error_type = _zstd().ZstdDecompressor, b"\x28\xb5\x2f\xfd", _zstd().ZstdError
    elif suffix == ".gz":
        new, magic, error_type = _Gunzip, b"\x1f\x8b\x08", zlib.error
    else:
        while piece := file.read(_CHUNK_BYTES):
            yield piece
        return
    start = tries = 0
    lost: tuple[int, Exception, list[bytes]] | None = None
    while file.seek(start) >= 0 and file.peek(1):
        held: list[bytes] = []
        try:
            end = yield from _decompress(file, new(), held)
        except (EOFError, error_type) as error:
            lost, tries = lost or (start, error, held), tries + 1
            start = _find(file, magic, start + 1) if tries < _MAX_TRIES else -1
            if start < 0:
                yield from lost[2]
                raise lost[1] if isinstance(lost[1], EOFError) else ValueError(lost[1]) from None
            continue
        if lost is not None:
            yield Damage(lost[0], start, str(lost[1]))
            lost, tries = None, 0
        yield from held
        start = end


def _decompress(
    file: BufferedReader, decompressor: Any, held: list[bytes]
) -> Generator[bytes, None, int]:
    """Decompress a frame into *held*, and yield from there what is too much to be held.

    Returns where the frame ends. Raises EOFError or the error of the decompressor.
    """
    size = 0
    while not decompressor.eof:
        data = b""
        if decompressor.needs_input and not (data := file.read(_CHUNK_BYTES)):
            raise EOFError("the file ends in the middle of its compressed data")
        held.append(decompressor.decompress(data, _CHUNK_BYTES))
        size += len(held[-1])
        if size > _MAX_HELD_BYTES:
            yield from held
            held.clear()
    return file.tell() - len(decompressor.unused_data)


def _find(file: BufferedReader, magic: bytes, start: int) -> int:
    """Return where *magic* stands next in the file, from *start* on; -1 if it does not."""
    file.seek(start)
    window = b""
    while chunk := file.read(_CHUNK_BYTES):
        window += chunk
        if (index := window.find(magic)) >= 0:
            return start + index
        keep = len(magic) - 1
        start, window = start + len(window) - keep, window[-keep:]
    return -1


def read_whole(path: Path, max_bytes: int) -> bytes:
    """Return the decompressed content of a file.

    Raises OSError, EOFError, or ValueError if it is damaged or has more than *max_bytes*.
    """
    whole = b""
    with open_regular(path) as file:
        for piece in content(file, path.suffix):
            if isinstance(piece, Damage):
                raise ValueError(str(piece))  # noqa: TRY004 - the content is wrong, not a type
            whole += piece
            if len(whole) > max_bytes:
                raise ValueError(f"expected at most {max_bytes} bytes, found more")
    return whole
