"""`Progress`: says on standard error how far long work has come, with its rate and the time left."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import IO, Self

#: Seconds of work before which nothing is shown.
_QUIET_SECONDS = 1.0
#: Seconds between two drawings in a terminal, and between two lines elsewhere.
_DRAW_SECONDS, _LINE_SECONDS = 0.1, 10.0
#: Width of the bar, in characters.
_BAR = 20


class Progress:
    """Shows the progress of *name*, counted in *unit*: "B" for bytes, or a plural such as "partitions".

    In a terminal it is a bar that redraws itself and is removed at the end; elsewhere a plain line every
    ten seconds. Work that is done within a second shows nothing. Use it as a context manager, and call
    `update` as often as you like.
    """

    def __init__(
        self,
        name: str,
        unit: str = "B",
        *,
        out: IO[str] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._unit, self._monotonic = name, unit, monotonic
        self._out = sys.stderr if out is None else out
        self._is_terminal = self._out.isatty()
        self._began = self._shown = monotonic()
        self._is_drawn = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._is_drawn:
            self._out.write("\r\x1b[K")
            self._out.flush()

    def update(self, done: int, total: int, note: str = "") -> None:
        """Show that *done* of *total* are done; *note* says what is being done now."""
        now = self._monotonic()
        pause = _DRAW_SECONDS if self._is_terminal else _LINE_SECONDS
        if now - self._began < _QUIET_SECONDS or now - self._shown < pause:
            return
        self._shown = now
        text = f"{self.line(done, total)}  {note}".rstrip()
        if self._is_terminal:
            self._is_drawn = True
            self._out.write(f"\r{text[: shutil.get_terminal_size().columns - 1]}\x1b[K")
        else:
            self._out.write(f"{text}\n")
        self._out.flush()

    def line(self, done: int, total: int) -> str:
        """Return the progress as a text: bar, percent, amount, rate and time left."""
        part = min(done / total, 1.0) if total > 0 else 0.0
        seconds = self._monotonic() - self._began
        rate = done / seconds if seconds > 0 else 0.0
        left = f"  {_duration((total - done) / rate)} left" if rate > 0 and done < total else ""
        bar = ("█" * round(part * _BAR)).ljust(_BAR, "░")
        if self._unit == "B":
            amount = f"{done / 1e6:.1f} of {total / 1e6:.1f} MB  {rate / 1e6:.1f} MB/s"
        else:
            amount = f"{done:,} of {total:,} {self._unit}  {rate:,.1f}/s"
        return f"{self._name} {bar} {part:4.0%}  {amount}{left}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
