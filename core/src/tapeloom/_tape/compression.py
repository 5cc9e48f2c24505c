"""Compression of tapes, chosen by the ending of the file name: ``.zst``, ``.gz`` or none."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast


def _zstd() -> Any:
    """Return the zstd module. It is imported only when a tape needs it."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def zstd_error() -> type[Exception]:
    """Return the exception that reading invalid zstd data raises."""
    return cast("type[Exception]", _zstd().ZstdError)


def compressor(suffix: str) -> Callable[[bytes], bytes]:
    """Return a function that compresses data into a frame that can be read independently of others."""
    if suffix == ".zst":
        return cast("Callable[[bytes], bytes]", _zstd().compress)
    return gzip.compress if suffix == ".gz" else bytes


def open_tape(path: Path) -> IO[bytes]:
    """Open a tape for reading; its content is decompressed."""
    if path.suffix == ".zst":
        return cast("IO[bytes]", _zstd().open(path, "rb"))
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb")
