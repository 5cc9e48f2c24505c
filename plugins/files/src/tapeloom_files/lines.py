"""Events as bytes: JSON lines, CSV, and compressed members of a file."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable, Sequence
from decimal import Decimal
from operator import attrgetter
from typing import Any

import attrs
from tapeloom.events import Event, encode
from tapeloom.events.base import BaseEvent
from tapeloom.plugin import SinkBatch

from .settings import Compression, Format

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["COMPRESSORS", "ENCODERS", "ENDINGS", "header"]

#: The endings of compressed files.
ENDINGS: dict[Compression, str] = {"": "", "gzip": ".gz", "zstd": ".zst"}
#: Functions that compress a batch so that it can be decompressed on its own, and a file as a whole.
COMPRESSORS: dict[Compression, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": lambda content: gzip.compress(content, mtime=0),
    "zstd": zstd.compress,
}
#: Maximum number of zeros that plain notation may add to the digits of a number.
_MAX_ZEROS = 40


def _to_json_lines(batch: SinkBatch) -> dict[str, bytes]:
    """Return the lines of all events, under an empty name."""
    return {"": "".join([encode(event) + "\n" for event in batch.events]).encode()}


def _to_csv(batch: SinkBatch) -> dict[str, bytes]:
    """Return the rows of each type, by its name; `header` has the first row of a file."""
    rows: dict[str, list[str]] = {}
    readers = {cls: attrgetter(*_names(cls)) for cls in set(map(type, batch.events))}
    for n, event in enumerate(batch.events, batch.first):
        cells = [_cell(value) for value in readers[type(event)](event)]
        rows.setdefault(event.type, []).append(",".join([*cells, str(batch.epoch), str(n)]) + "\n")
    return {name: "".join(lines).encode() for name, lines in rows.items()}


#: How a batch becomes the contents of files, by their names.
ENCODERS: dict[Format, Callable[[SinkBatch], dict[str, bytes]]] = {
    "jsonl": _to_json_lines,
    "csv": _to_csv,
}


def header(file_format: Format, name: str, events: Sequence[Event]) -> bytes:
    """Return the first line of a new file for events of the type *name*."""
    if file_format == "jsonl":
        return b""
    event_class = next(type(event) for event in events if event.type == name)
    return ",".join([*_names(event_class), "epoch", "n"]).encode() + b"\n"


def _names(event_class: Any) -> list[str]:
    return [field.name for field in attrs.fields(event_class)]


def _cell(value: Any) -> str:
    """Return a value as CSV: texts in quotes, numbers without, nothing for None."""
    if value is None:
        return ""
    if type(value) is str:
        return _quoted(value)
    if type(value) is bool:
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return _plain(value)
    if isinstance(value, BaseEvent):
        return _quoted(encode(value))
    if isinstance(value, tuple | list):
        return _quoted(json.dumps(value, default=_shown, separators=(",", ":")))
    return str(value)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _plain(number: Decimal) -> str:
    text = str(number)
    if "E" not in text or not -_MAX_ZEROS <= number.adjusted() <= _MAX_ZEROS:
        return text
    return format(number, "f")


def _shown(value: object) -> str:
    return _plain(value) if isinstance(value, Decimal) else str(value)
