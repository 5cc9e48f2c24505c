"""`Tape`: reads recorded frames and REST responses from a file.

A tape is a file of JSON lines, plain or compressed, with one line per frame that a server sent:
``{"ts": <seconds since 1970, or null>, "frame": "<text>"}``. Tapes that `recorder` writes begin with a
line that describes the feed, and contain the REST responses as well. For a ``NAME.ws.jsonl`` from
another tool, a file ``NAME.rest.index.json`` beside it may list REST responses, each with its time or
its position (``"after 7 ws frames"``); they are yielded there.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from attrs import field, frozen

from tapeloom.errors import TapeError

from .compression import Damage, content, open_regular, read_whole

#: Largest time in seconds since 1970 whose nanoseconds fit into 64 bits.
_MAX_SECONDS = 9_223_372_036
#: Largest line, and largest file beside a tape, in bytes: a frame of 16 MiB with many escapes.
_MAX_BYTES = 64 << 20
#: The exceptions that JSON of an unexpected shape causes.
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError)
#: The position of a REST response in an index.
_POSITION = re.compile(r"after (\d+) ws frames?")


@frozen
class RecordedFrame:
    """A frame and its receive time in ns."""

    recv: int
    frame: bytes
    connection: int = 1  #: the number of the feed's connection
    together: int = 1  #: how many frames from this one on were parsed together


@frozen
class RecordedAnswer:
    """A REST response and its receive time in ns."""

    recv: int
    url: str
    body: bytes
    request: bytes = b""  #: the body of the request


@frozen
class RecordedFact:
    """What the recorded feed did, at a time in ns; see `tapeloom._runtime.taps`."""

    recv: int
    monotonic: float  #: in seconds
    name: str
    fields: Mapping[str, Any]


@frozen
class TapeHead:
    """The first line of a tape: the feed that was recorded, with the keys of a feed in a stack."""

    recv: int
    feed: Mapping[str, Any]
    #: Stands for the feed's stages and their settings; empty: the tape has no facts.
    stages: str = field(default="", eq=False)


@frozen
class CorruptLine:
    """A line that is not a valid record, or a stretch of damaged data after that line."""

    recv: int
    line: int
    text: str


#: A line of another program's recording: the time of receipt in ns, a space, and the message as JSON.
_TIME_AND_MESSAGE = re.compile(rb"(\d{16,19}) (?=[{\[])")
Record = RecordedFrame | RecordedAnswer | RecordedFact | TapeHead | CorruptLine

#: A REST response in an index: position as a number of frames, time in ns, URL, file of the body.
_IndexEntry = tuple[int | None, int | None, str, Path]


class Tape:
    """A tape on disk. Every iteration yields the same records."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not os.path.isfile(self.path):  # noqa: PTH113 - no error for a name that is too long
            problem = (
                "it is not a regular file, but a folder, a pipe or a device."
                if os.path.exists(self.path)  # noqa: PTH110
                else "there is no such file."
            )
            raise TapeError(self.path, 0, f"{problem} Give the path of a .ws.jsonl file.")
        self._answers = self._read_index()
        self.position = 0  #: how many bytes of the file have been read

    @property
    def size(self) -> int:
        """The bytes of the file; 0 if it is gone."""
        return self.path.stat().st_size if self.path.exists() else 0

    def __iter__(self) -> Iterator[Record]:
        """Yield the records in order.

        Raises TapeError if the file cannot be read any further; all records before were yielded.
        """
        answers = list(self._answers)
        recv = 0
        for count, (number, line) in enumerate(self._lines()):
            record = (
                CorruptLine(recv, number, str(line))
                if isinstance(line, Damage)
                else _parse_line(line, number, recv)
            )
            if isinstance(record, CorruptLine) and count == 0 and not isinstance(line, Damage):
                raise TapeError(
                    self.path,
                    number,
                    'expected a line like {"ts": 1.5, "frame": "…"}, found'
                    f" {record.text[:80]!r}. Is this a recording? If each line is a message as the"
                    " venue sent it, convert the file: jq -Rc '{ts: null, frame: .}' FILE > day.jsonl",
                )
            while answers and _is_due(answers[0], count, record.recv):
                yield self._answer(answers.pop(0), record.recv)
            recv = record.recv
            yield record
        for answer in answers:
            yield self._answer(answer, max(recv, answer[1] or 0))

    @property
    def head(self) -> Mapping[str, Any] | None:
        """The feed that was recorded; None if the tape does not say.

        Raises TapeError if the tape cannot be read.
        """
        first = next(self._lines(), None)
        if first is None or isinstance(first[1], Damage):
            return None
        record = _parse_line(first[1], 1, 0)
        return record.feed if isinstance(record, TapeHead) else None

    def _lines(self) -> Iterator[tuple[int, bytes | Damage]]:
        """Yield the lines that are not empty with their numbers, and Damage with the number before it."""
        number, rest = 0, b""
        try:
            with open_regular(self.path) as file:
                for piece in content(file, self.path.suffix):
                    self.position = file.tell()
                    if isinstance(piece, Damage):
                        rest = b""
                        yield number, piece
                        continue
                    *lines, rest = (rest + piece).split(b"\n")
                    for number, line in enumerate(lines, number + 1):  # noqa: B020
                        if line.strip():
                            yield number, line
                    if len(rest) > _MAX_BYTES:
                        problem = (
                            f"expected a line of at most {_MAX_BYTES} bytes, found a longer one."
                        )
                        raise TapeError(self.path, number + 1, f"{problem} Is this a recording?")
        except EOFError as error:
            raise TapeError(
                self.path, number, f"{error}. Everything before was replayed."
            ) from error
        except (OSError, ValueError) as error:
            raise TapeError(self.path, number, f"cannot be read any further: {error}.") from error
        if rest.strip():
            yield number + 1, rest

    def _read_index(self) -> list[_IndexEntry]:
        """Return the entries of the index beside the tape, in order; [] without an index.

        Raises TapeError if the index is malformed.
        """
        stem = self.path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".ws")
        index = self.path.with_name(f"{stem}.rest.index.json")
        if not os.path.exists(index):  # noqa: PTH110 - no error for a name that is too long
            return []
        try:
            entries = json.loads(read_whole(index, _MAX_BYTES), parse_float=Decimal)
            found: list[_IndexEntry] = [
                (_offset(entry), _ns(entry["ts"]), str(entry["url"]), _beside(index, entry["file"]))
                for entry in entries
            ]
        except (*_MALFORMED, OSError) as error:
            raise TapeError(
                index, 0, f"expected a list of {{ts, url, file}}, found {error!r}."
            ) from error
        return _in_order(found)

    @staticmethod
    def _answer(entry: _IndexEntry, recv: int) -> RecordedAnswer:
        _, ts, url, path = entry
        try:
            body = read_whole(path, _MAX_BYTES)
        except (OSError, EOFError, ValueError) as error:
            raise TapeError(
                path, 0, f"the recorded response of {url} cannot be read: {error}."
            ) from error
        return RecordedAnswer(recv if ts is None else min(ts, recv), url, body)


def _is_due(answer: _IndexEntry, frames: int, recv: int) -> bool:
    position, ts, _, _ = answer
    return (ts or 0) <= recv if position is None else position <= frames


def _beside(index: Path, name: str) -> Path:
    """Return the path of the file *name* in the folder of *index*; raise ValueError if it is elsewhere."""
    path = index.parent / name
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(index.parent)):
        raise ValueError(f"the file {name!r} is not in the folder of the index")
    return path


def _in_order(answers: list[_IndexEntry]) -> list[_IndexEntry]:
    """Return *answers* sorted by time and position; one without a time follows its predecessor."""
    keys: list[tuple[int, int, int]] = []
    last = 0
    for number, (position, ts, _, _) in enumerate(answers):
        last = last if ts is None else ts
        keys.append((last, position or 0, number))
    return [answers[number] for _, _, number in sorted(keys)]


def _offset(entry: dict[str, Any]) -> int | None:
    """Return after how many frames the response came; None if the index does not say."""
    match = _POSITION.fullmatch(entry.get("position", ""))
    return int(match[1]) if match else None


def _ns(seconds: Decimal | int | None) -> int | None:
    """Return a time in seconds as exact ns; None stays None.

    Raises ValueError or ArithmeticError if it is not a valid time.
    """
    if seconds is None:
        return None
    exact = Decimal(seconds)
    if not -_MAX_SECONDS < exact < _MAX_SECONDS:
        raise ValueError(f"{exact} is not a time in seconds since 1970")
    return int(exact * 1_000_000_000)


def _parse_line(line: bytes, number: int, default_recv: int) -> Record:
    """Return the record in *line*. A record without a time receives *default_recv*."""
    try:
        if match := _TIME_AND_MESSAGE.match(line):
            return RecordedFrame(_int64(match[1].decode()), line[match.end() :].rstrip(), 1, 1)
        record = json.loads(line, parse_float=Decimal)
        recv = _ns(record["ts"])
        recv = default_recv if recv is None else recv
        if "feed" in record:
            return TapeHead(recv, dict(record["feed"]), str(record.get("stages", "")))
        if "fact" in record:
            # Its numbers enter times of events, unlike those of frames, which a parser checks.
            record = json.loads(line, parse_float=float, parse_int=_int64)
            name, monotonic = str(record.pop("fact")), float(record.pop("monotonic"))
            _ns(Decimal(monotonic))  # raises for what is no time, such as infinity
            return RecordedFact(recv, monotonic, name, record)
        if "url" in record:
            url, body = str(record["url"]), _content(record, "answer")
            return RecordedAnswer(recv, url, body, _content(record, "request"))
        connection, together = record.get("connection", 1), record.get("together", 1)
        return RecordedFrame(recv, _content(record, "frame"), int(connection), int(together))
    except _MALFORMED:
        return CorruptLine(default_recv, number, line[:200].decode(errors="replace").rstrip())


def _int64(digits: str) -> int:
    """Return an integer that fits into 64 bits with a sum; raise ValueError for a larger one."""
    if len(digits) > 20 or not -(1 << 62) <= (number := int(digits)) < 1 << 62:
        raise ValueError(f"{digits[:30]} does not fit into 64 bits")
    return number


def _content(record: Mapping[str, Any], name: str) -> bytes:
    """Return the bytes under *name*, or in base64 under *name* + ``64`` if they are not UTF-8 text."""
    encoded = record.get(f"{name}64")
    if encoded is not None:
        return base64.b64decode(encoded, validate=True)
    text: str = record[name]
    return text.encode()
