"""The outputs of the command line (table, JSON lines, none), its summary line and its log lines."""

from __future__ import annotations

import errno
import io
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import IO, Any, Protocol

import structlog

from tapeloom.errors import masked
from tapeloom.events import Event, Reject, Status, encode

from ._stdout import OutputFailed
from ._table import Table

#: The names of the outputs.
FORMATS = ("table", "jsonl", "none")
#: The states of a `Status` that show that a venue was reached.
_CONNECTED = frozenset({"connected", "logged_in", "subscribed", "live"})


class Output(Protocol):
    """Receives batches of events by `write`; `refresh` is called four times a second."""

    def write(self, events: list[Event]) -> None: ...
    def refresh(self, counters: Mapping[str, int]) -> None: ...
    def close(self) -> None: ...


class LogLines(io.TextIOBase):
    """A text file that hands each line written to it to *show*."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show

    def write(self, text: str) -> int:
        """Hand on the lines of *text*."""
        for line in filter(None, text.splitlines()):
            self._show(line)
        return len(text)


class JsonLines:
    """Writes each event as one line of JSON."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out

    def write(self, events: list[Event]) -> None:
        """Write a batch and flush, so that a reader of the pipe receives it at once."""
        self._out.write("".join(f"{encode(event)}\n" for event in events))
        self._out.flush()

    def refresh(self, counters: Mapping[str, int]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Discard:
    """Discards all events."""

    def write(self, events: list[Event]) -> None:
        """Do nothing."""

    def refresh(self, counters: Mapping[str, int]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def output(format: str) -> Output:
    """Return the output named *format*, one of `FORMATS`. Raises OutputFailed if stdout is closed."""
    if format == "none":
        return Discard()
    if sys.stdout is None:
        raise OutputFailed(OSError(errno.EBADF, "it is closed"))
    if format == "jsonl":
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # JSON is UTF-8, whatever the terminal uses
        return JsonLines(sys.stdout)
    table = Table(sys.stdout)
    if table.live and sys.stderr.isatty():
        # Log lines would tear the table, which shows them itself.
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(LogLines(table.log)))  # type: ignore[arg-type]
    return table


class Summary:
    """Counts events and prints the totals as JSON, in the last line on standard error."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.rejects: Counter[str] = Counter()
        self._connected = False  # whether a Status said so
        self.last_failure = ""  #: why the last attempt to connect failed
        self._began = time.monotonic()

    def add(self, events: list[Event]) -> None:
        """Count a batch, and note whether a venue was reached."""
        self.events.update(event.type for event in events)
        for event in events:
            if type(event) is Reject:
                self.rejects[event.rule] += 1
            elif type(event) is Status:
                self._connected = self._connected or event.state in _CONNECTED
                if event.state == "reconnecting":
                    self.last_failure = event.detail

    @property
    def never_connected(self) -> bool:
        """Whether nothing shows that a venue was reached: no Status, and no other event."""
        return not self._connected and all(name == "status" for name in self.events)

    def print(self, counters: Mapping[str, int], errors: list[str]) -> None:
        """Print the summary line."""
        totals: dict[str, Any] = {
            "frames": counters.get("frames", 0),
            "bytes": counters.get("bytes", 0),
            "events": dict(sorted(self.events.items())),
            "rejects": dict(sorted(self.rejects.items())),
            "gaps": counters.get("gaps", 0),  # not the reports: most gaps have several
            "errors": errors,
            "seconds": round(time.monotonic() - self._began, 3),
        }
        print(json.dumps(totals), file=sys.stderr, flush=True)


def configure_logging(*, debug: bool) -> None:
    """Configure structlog. Only the command line does so; the library leaves it to the application.

    A process that a command starts calls it too.
    """
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=True),
            # Not that of rich, where it is installed: it prints the values of variables, secrets too.
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
            lambda _logger, _name, line: masked(str(line)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("debug" if debug else "warning"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
