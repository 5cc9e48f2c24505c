"""Where the command line puts events, and the summary that it ends with."""

from __future__ import annotations

import io
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import IO, Any, Protocol

import structlog

from tapeloom.events import Event, Reject, encode

from ._table import Table

FORMATS = ("table", "jsonl", "none")


class Output(Protocol):
    """Takes batches, and is told four times a second that time passes."""

    def write(self, events: list[Event]) -> None: ...
    def refresh(self, counters: Mapping[str, int]) -> None: ...
    def close(self) -> None: ...


class Lines:
    """One event a line, as JSON."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out

    def write(self, events: list[Event]) -> None:
        """Write and flush, so that whoever reads the pipe has it at once."""
        self._out.write("".join(f"{encode(event)}\n" for event in events))
        self._out.flush()

    def refresh(self, counters: Mapping[str, int]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Nothing:
    """Events are counted and forgotten."""

    def write(self, events: list[Event]) -> None:
        """Do nothing."""

    def refresh(self, counters: Mapping[str, int]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def output(format: str) -> Output:
    """Return the output of this name."""
    if format == "jsonl":
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # as JSON is, whatever the terminal shows
        return Lines(sys.stdout)
    if format == "none":
        return Nothing()
    table = Table(sys.stdout)
    if table.live and sys.stderr.isatty():
        # A log line would tear the table; it shows the same changes of state as notes.
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    return table


class Summary:
    """What went by: the last line on standard error, as JSON."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.rejects: Counter[str] = Counter()
        self._began = time.monotonic()

    def add(self, events: list[Event]) -> None:
        """Count a batch."""
        self.events.update(event.type for event in events)
        for event in events:
            if type(event) is Reject:
                self.rejects[event.rule] += 1

    def print(self, counters: Mapping[str, int], errors: list[str]) -> None:
        """Write the line."""
        shown: dict[str, Any] = {
            "frames": counters.get("frames", 0),
            "bytes": counters.get("bytes", 0),
            "events": dict(sorted(self.events.items())),
            "rejects": dict(sorted(self.rejects.items())),
            "gaps": self.events["gap"],
            "errors": errors,
            "seconds": round(time.monotonic() - self._began, 3),
        }
        print(json.dumps(shown), file=sys.stderr, flush=True)
