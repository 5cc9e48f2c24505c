"""Steps on disk that survive a loss of power, and what their errors mean for a sink.

A new name in a folder is durable once the folder is synchronised.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tapeloom.errors import SinkRefused, SinkUnavailable

__all__ = ["append", "explained", "lock", "make_folders", "move", "sync", "write"]

#: Errors that pass when space is made.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
#: Errors that stay until a person changes rights or the path.
_REFUSED = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR,
    errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip


def sync(path: Path) -> None:
    """Synchronise a file or a folder with the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append(descriptor: int, *parts: bytes | memoryview) -> None:
    """Write *parts*, one after the other, at the end of an open file and synchronise it."""
    views = [memoryview(part) for part in parts]
    while views:  # they are not joined first, which takes as long as writing them
        written = os.writev(descriptor, views)
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if views:
            views[0] = views[0][written:]
    os.fsync(descriptor)


def write(path: Path, content: bytes) -> None:
    """Create or replace a file with *content*; after a crash it has the old content or the new one."""
    temporary = path.with_name(f"{path.name}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        append(descriptor, content)
    finally:
        os.close(descriptor)
    move(temporary, path)


def move(source: Path, target: Path) -> None:
    """Rename a synchronised file, replacing *target*, and make the new name durable."""
    os.replace(source, target)  # noqa: PTH105  # the tests of crashes replace functions of `os`
    sync(target.parent)


def make_folders(path: Path) -> None:
    """Create a folder and its parents where they are missing, and make their names durable."""
    if path.is_dir():
        return
    make_folders(path.parent)
    try:
        os.mkdir(path)  # noqa: PTH102
    except FileExistsError:
        if not path.is_dir():
            raise
    sync(path.parent)


@contextmanager
def lock(path: Path, *, exclusive: bool, wait: bool) -> Iterator[None]:
    """Hold a lock of a file, which is created. Raises BlockingIOError if it is taken and *wait* is false.

    The lock ends with the process.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise the errors of the disk inside as errors of a sink, with a sentence that names the remedy."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        where = f"{str(error.filename or path)!r}: {reason}"
        if error.errno in _FULL:
            text = f"no space is left to write {where}. Free space on the disk of {str(path)!r}."
            raise SinkUnavailable(text) from error
        if error.errno in _REFUSED:
            raise SinkRefused(
                f"cannot write {where}. Give this user the right to write there, or set `path` to a"
                " folder where it may."
            ) from error
        raise SinkUnavailable(f"cannot write {where}. Check the disk of {str(path)!r}.") from error
