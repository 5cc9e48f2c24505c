"""Tapes: recorded frames and REST answers, read from files.

A recording is a file of JSON lines, plain or compressed, one for each frame that a server sent:
``{"ts": <seconds since 1970, or null>, "frame": "<text>"}``. The tapes that we record ourselves begin
with a line that says of which feed they are, and hold the answers over REST as well. Beside a
``NAME.ws.jsonl`` of somebody else's a file ``NAME.rest.index.json`` may list the REST answers that came
in between, with the time or the place (``"after 7 ws frames"``) of each; they are answered there.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from attrs import frozen

from tapeloom.errors import TapeError

from .compression import broken, opened

#: Seconds from 1970 at which 64 bits of nanoseconds end.
_FAR = 9_223_372_036
#: What JSON of another shape makes the reading of it raise.
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError)
_PLACE = re.compile(r"after (\d+) ws frames?")


@frozen
class Recorded:
    """A frame, and when it was received."""

    recv: int
    frame: bytes


@frozen
class Answer:
    """The body that a REST address answered with."""

    recv: int
    url: str
    body: bytes
    request: bytes = b""  #: what was posted


@frozen
class Head:
    """What a tape is of: the keys of a feed in a stack."""

    recv: int
    feed: Mapping[str, Any]


@frozen
class Corrupt:
    """A line that is no record."""

    recv: int
    line: int
    text: str


Record = Recorded | Answer | Head | Corrupt

#: A REST answer beside a tape: after how many frames, when, of which address, in which file.
_Indexed = tuple[int | None, int | None, str, Path]


class Tape:
    """A recording on disk. Reading it again gives the same records again."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise TapeError(
                self.path, 0, "there is no such file. Give the path of a .ws.jsonl file."
            )
        self._answers = self._read_index()

    def __iter__(self) -> Iterator[Record]:
        """Yield the records in order.

        Raises TapeError where the file cannot be read on; what stood before has been yielded.
        """
        answers = list(self._answers)
        recv = 0
        for count, (number, line) in enumerate(self._lines()):
            record = _read(line, number, recv)
            if isinstance(record, Corrupt) and count == 0:
                raise TapeError(
                    self.path,
                    number,
                    'expected a line like {"ts": 1.5, "frame": "…"}, found'
                    f" {record.text[:80]!r}. Is this a recording?",
                )
            while answers and _is_due(answers[0], count, record.recv):
                yield self._answer(answers.pop(0), record.recv)
            recv = record.recv
            yield record
        for answer in answers:
            yield self._answer(answer, max(recv, answer[1] or 0))

    @property
    def head(self) -> Mapping[str, Any] | None:
        """What the tape is of, where it says so.

        Raises TapeError where it cannot be read.
        """
        first = next(self._lines(), None)
        record = _read(first[1], 1, 0) if first is not None else None
        return record.feed if isinstance(record, Head) else None

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        number = 0
        try:
            with opened(self.path) as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield number, line
        except EOFError as error:
            raise TapeError(
                self.path,
                number,
                "the file ends in the middle of its compressed data."
                " All that could be read was replayed.",
            ) from error
        except (OSError, zlib.error, broken()) as error:
            raise TapeError(self.path, number, f"cannot be read: {error}.") from error

    def _read_index(self) -> list[_Indexed]:
        """Return the REST answers in order."""
        stem = self.path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".ws")
        index = self.path.with_name(f"{stem}.rest.index.json")
        if not index.is_file():
            return []
        try:
            entries = json.loads(index.read_bytes(), parse_float=Decimal)
            found: list[_Indexed] = [
                (_place(entry), _ns(entry["ts"]), str(entry["url"]), index.parent / entry["file"])
                for entry in entries
            ]
        except (*_UNREADABLE, OSError) as error:
            raise TapeError(
                index, 0, f"expected a list of {{ts, url, file}}, found {error!r}."
            ) from error
        return _in_order(found)

    @staticmethod
    def _answer(entry: _Indexed, recv: int) -> Answer:
        _, ts, url, path = entry
        try:
            body = path.read_bytes()
            body = gzip.decompress(body) if path.suffix == ".gz" else body
        except (OSError, EOFError, ValueError, zlib.error) as error:  # a name may be none
            raise TapeError(
                path, 0, f"the recorded answer of {url} cannot be read: {error}."
            ) from error
        return Answer(recv if ts is None else min(ts, recv), url, body)


def _is_due(answer: _Indexed, frames: int, recv: int) -> bool:
    place, ts, _, _ = answer
    return (ts or 0) <= recv if place is None else place <= frames


def _in_order(answers: list[_Indexed]) -> list[_Indexed]:
    """Sort by time and place; what has no time stands after the one before it."""
    keys: list[tuple[int, int, int]] = []
    last = 0
    for number, (place, ts, _, _) in enumerate(answers):
        last = last if ts is None else ts
        keys.append((last, place or 0, number))
    return [answers[number] for _, _, number in sorted(keys)]


def _place(entry: dict[str, Any]) -> int | None:
    match = _PLACE.fullmatch(entry.get("position", ""))
    return int(match[1]) if match else None


def _ns(seconds: Decimal | int | None) -> int | None:
    """Return a time in ns, exactly; None where it is not known.

    Raises ValueError or ArithmeticError where it is no time.
    """
    if seconds is None:
        return None
    exact = Decimal(seconds)
    if not -_FAR < exact < _FAR:
        raise ValueError(f"{exact} is no time in seconds since 1970")
    return int(exact * 1_000_000_000)


def _read(line: bytes, number: int, otherwise: int) -> Record:
    try:
        record = json.loads(line, parse_float=Decimal)
        recv = _ns(record["ts"])
        recv = otherwise if recv is None else recv
        if "feed" in record:
            return Head(recv, dict(record["feed"]))
        if "url" in record:
            url, body = str(record["url"]), _content(record, "answer")
            return Answer(recv, url, body, _content(record, "request"))
        return Recorded(recv, _content(record, "frame"))
    except _UNREADABLE:
        return Corrupt(otherwise, number, line[:200].decode(errors="replace").rstrip())


def _content(record: Mapping[str, Any], name: str) -> bytes:
    """Return what stands under *name*, or, where it is no text, under that with ``64`` behind it."""
    coded = record.get(f"{name}64")
    if coded is not None:
        return base64.b64decode(coded, validate=True)
    text: str = record[name]
    return text.encode()
