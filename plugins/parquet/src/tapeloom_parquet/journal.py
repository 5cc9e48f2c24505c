"""The journal: batches that are durable and not yet in a Parquet file.

A journal is a file that begins with `MAGIC`, followed by records: the length of the content (8 bytes,
little-endian), its CRC-32 (4 bytes), the content. The content is a line of JSON, and for each event
class a stream of Arrow IPC. A record counts once it is whole: what a crash has cut is not read.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa  # type: ignore[import-untyped]
from attrs import frozen
from tapeloom.errors import SinkRefused

from . import disk

__all__ = ["SUFFIX", "Journal", "Record", "encode", "read"]

MAGIC = b"tapeloom journal 1\n"
SUFFIX = ".journal"
_HEAD = struct.Struct("<QI")
Part: TypeAlias = bytes | memoryview


@frozen
class Record:
    """A batch in a journal."""

    epoch: int  #: The number of the run.
    first: int  #: The number of the first event.
    last: int  #: The number of the last event.
    positions: Mapping[str, str]  #: What has changed of the positions.
    batches: Sequence[pa.RecordBatch]  #: The events, one record batch for each class.


class Journal:
    """A journal that is open for appending."""

    def __init__(self, path: Path, size: int = 0) -> None:
        """Create a journal, or open an existing one whose whole records take *size* bytes."""
        self.path = path
        self.size = size  #: Number of bytes.
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        os.ftruncate(self._descriptor, size)
        os.lseek(self._descriptor, 0, os.SEEK_END)

    def append(self, content: Sequence[Part]) -> None:
        """Add what `encode` returned; return when it is durable."""
        is_new = not self.size
        content = [MAGIC, *content] if is_new else content
        disk.append(self._descriptor, *content)
        if is_new:
            disk.sync(self.path.parent)
        self.size += sum(map(len, content))

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def encode(record: Record) -> Sequence[Part]:
    """Return a record as parts, to be written one after the other."""
    streams = [_stream(batch) for batch in record.batches]
    line = {
        "epoch": record.epoch,
        "first": record.first,
        "last": record.last,
        "positions": dict(record.positions),
        "sizes": [len(stream) for stream in streams],
    }
    parts: list[Part] = [json.dumps(line, separators=(",", ":")).encode() + b"\n", *streams]
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return [_HEAD.pack(sum(map(len, parts)), checksum), *parts]


def _stream(batch: pa.RecordBatch) -> memoryview:
    output = pa.BufferOutputStream()
    with pa.ipc.new_stream(output, batch.schema) as writer:
        writer.write_batch(batch)
    return memoryview(output.getvalue())


def read(path: Path) -> tuple[list[Record], int]:
    """Return the whole records of a journal, and the number of bytes up to the end of the last one.

    Raises SinkRefused if it is damaged in another way than by a write that did not end.
    """
    content = path.read_bytes()
    if not content.startswith(MAGIC):
        if not MAGIC.startswith(content):
            raise _damaged(path, 0)
        return [], 0
    records, position = [], len(MAGIC)
    while position + _HEAD.size <= len(content):
        length, checksum = _HEAD.unpack_from(content, position)
        begin = position + _HEAD.size
        body = memoryview(content)[begin : begin + length]
        if not length or len(body) < length or zlib.crc32(body) != checksum:
            if length and begin + length < len(content):
                raise _damaged(path, position)
            break
        records.append(_decode(content, begin))
        position = begin + length
    return records, position if records else 0


def _decode(content: bytes, begin: int) -> Record:
    end = content.index(b"\n", begin) + 1
    line = json.loads(content[begin:end])
    buffer = pa.py_buffer(content)
    batches = []
    for size in line["sizes"]:
        with pa.ipc.open_stream(buffer.slice(end, size)) as reader:
            batches.append(reader.read_next_batch())
        end += size
    return Record(line["epoch"], line["first"], line["last"], line["positions"], batches)


def _damaged(path: Path, position: int) -> SinkRefused:
    return SinkRefused(
        f"the journal {str(path)!r} is damaged at byte {position}: its disk has changed what was written."
        " Move it away to go on without the events in it from there on."
    )
