"""Steps on disk that survive a loss of power, and what their errors mean for a sink."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tapeloom.errors import SinkRefused, SinkUnavailable

__all__ = ["append", "explained", "make_folders", "sync"]

#: Errors that stay until a person changes rights or the path; others may pass.
_REFUSED = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR,
    errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip
#: The same, as SQLite says it.
_REFUSED_STATES = ("readonly", "unable to open")


def sync(path: Path) -> None:
    """Synchronise a folder with the disk, so that the names in it are durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append(path: Path, content: bytes) -> None:
    """Write *content* at the end of a file, which is created, and synchronise it."""
    is_new = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if is_new:
        sync(path.parent)


def make_folders(path: Path) -> None:
    """Create a folder and its parents where they are missing, and make their names durable."""
    if path.is_dir():
        return
    make_folders(path.parent)
    try:
        os.mkdir(path)  # noqa: PTH102  # the tests of crashes replace functions of `os`
    except FileExistsError:
        if not path.is_dir():
            raise
    sync(path.parent)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise the errors of the disk inside as errors of a sink, with a sentence that names the remedy."""
    try:
        yield
    except OSError as error:
        reason = f"{str(error.filename or path)!r}: {error.strerror or error}"
        raise _explained(path, reason, refused=error.errno in _REFUSED) from error
    except sqlite3.Error as error:
        reason = f"the state in {str(path)!r}: {error}"
        refused = any(text in str(error) for text in _REFUSED_STATES)
        raise _explained(path, reason, refused=refused) from error


def _explained(path: Path, reason: str, *, refused: bool) -> SinkRefused | SinkUnavailable:
    if refused:
        return SinkRefused(
            f"cannot write {reason}. Give this user the right to write there, or set `path` to a folder"
            " where it may."
        )
    return SinkUnavailable(f"cannot write {reason}. Free space on the disk of {str(path)!r}.")
