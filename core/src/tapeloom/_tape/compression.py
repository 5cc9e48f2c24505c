"""How a tape is compressed, by the ending of its name."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast


def _zstd() -> Any:
    """Return the module, which only who has such a tape pays for."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def broken() -> type[Exception]:
    """Return what reading raises where the data is not compressed as the name says."""
    return cast("type[Exception]", _zstd().ZstdError)


def compressor(suffix: str) -> Callable[[bytes], bytes]:
    """Return what makes a piece of data that can be read whatever becomes of the next."""
    if suffix == ".zst":
        return cast("Callable[[bytes], bytes]", _zstd().compress)
    return gzip.compress if suffix == ".gz" else bytes


def opened(path: Path) -> IO[bytes]:
    """Open a tape, compressed or not."""
    if path.suffix == ".zst":
        return cast("IO[bytes]", _zstd().open(path, "rb"))
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb")
