"""Standard output: carries nothing but the data of a command, and its errors are told in a sentence."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO


class OutputFailed(Exception):
    """Standard output cannot be written. `code` is the exit code: 0 if its reader has closed the pipe."""

    def __init__(self, error: OSError) -> None:
        self.code = 0 if error.errno == errno.EPIPE else 1
        super().__init__(
            f"standard output cannot be written: {error.strerror}. What was written so far is complete"
            " up to its last whole line."
        )


class _File(io.FileIO):
    """An open file, of which the first error is raised as OutputFailed if *raises*; others are ignored."""

    def __init__(self, number: int, *, raises: bool) -> None:
        super().__init__(os.dup(number), mode="w")
        self._raises = raises
        self._failed = False

    def write(self, data: Any, /) -> int:
        """Write as much of *data* as possible; return the number of bytes."""
        if not self._failed:
            try:
                while (count := super().write(data)) is None:  # the file is in non-blocking mode
                    select.select([], [self], [])
            except OSError as error:
                self._failed = self._raises
                if self._raises:
                    raise OutputFailed(error) from None
            else:
                return count
        return len(data)


class _Stream(io.TextIOWrapper):
    """Standard output or error on a descriptor of its own, a copy of *number*."""

    def __init__(self, number: int, encoding: str, *, raises: bool = True) -> None:
        self.number = number
        file = io.BufferedWriter(_File(number, raises=raises))
        # What the terminal cannot encode is printed as an escape.
        line_buffering = not raises or file.isatty()
        super().__init__(file, encoding, errors="backslashreplace", line_buffering=line_buffering)


def _opened(stream: TextIO | None, *, raises: bool) -> Any:
    """Return *stream* with errors handled as *raises* says; unchanged if it has no descriptor."""
    try:
        return _Stream(stream.fileno(), stream.encoding, raises=raises)  # type: ignore[union-attr]
    except (AttributeError, OSError, ValueError):
        return stream


@contextmanager
def standard_streams() -> Iterator[None]:
    """Use standard output that raises OutputFailed, and standard error that never raises."""
    # `print(file=None)` would write to standard output.
    stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115 - open to the end
    with ExitStack() as stack:
        for stream, raises, redirect in (
            (stderr, False, redirect_stderr),
            (sys.stdout, True, redirect_stdout),
        ):
            opened = _opened(stream, raises=raises)
            if opened is not stream:
                stack.callback(opened.close)
            stack.enter_context(redirect(opened))
        yield


@contextmanager
def events_only() -> Iterator[None]:
    """Send to standard error what libraries print or log to standard output.

    The stream that `sys.stdout` was before still writes to standard output.
    """
    out = sys.stdout
    with redirect_stdout(sys.stderr):
        if not isinstance(out, _Stream):
            yield
            return
        out.flush()
        os.dup2(sys.stderr.fileno(), out.number)
        try:
            yield
        finally:
            if sys.__stdout__ is not None:
                with suppress(
                    OSError, ValueError
                ):  # what is in its buffer belongs to standard error
                    sys.__stdout__.flush()
            os.dup2(out.fileno(), out.number)
