"""Line numbers of keys and array items in a TOML text, so that each mistake can name its line.

A place is the path of a key in the file, such as ``feed[0].symbols[1]``. `tomllib` returns values
without positions. It has accepted the text before, so the text is valid TOML and a small scanner can
find where every key and every array item begins.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import TYPE_CHECKING

import attrs

from tapeloom.errors import Mistake

if TYPE_CHECKING:
    from collections.abc import Iterable


#: A key without quotes.
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
#: A string in one of the four quoting styles of TOML, longest delimiter first.
_STRING = re.compile(
    r'"""(?:\\.|(?!""").)*"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\])*"'
    r"|'[^']*'",
    re.DOTALL,
)
#: White space, line ends and comments.
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
#: A number, a boolean or a time: everything up to the next delimiter.
_SCALAR = re.compile(r"[^,\]}#\r\n]+")
#: The last segment of a place.
_LAST_SEGMENT = re.compile(r'(?:\[\d+\]|\.?(?:[A-Za-z0-9_-]+|"(?:\\.|[^"\\])*"))$')


def child(place: str, key: str | int) -> str:
    """Return the place of *key* inside *place*: ``feed[0]``, ``feed[0].symbols``."""
    if isinstance(key, int):
        return f"{place}[{key}]"
    name = key if _BARE_KEY.fullmatch(key) else json.dumps(key, ensure_ascii=False)
    return f"{place}.{name}" if place else name


class Places:
    """The offset of every key and item in a TOML text that `tomllib` accepts."""

    def __init__(self, text: str = "") -> None:
        self._text = text
        self._found = _Scanner(text).scan() if text else {}

    def line(self, place: str) -> int:
        """Return the line number of *place*, or of the nearest table that contains it; 0 if unknown."""
        offset = self._offset(place)
        return 0 if offset is None else self._text.count("\n", 0, offset) + 1

    def locate(self, mistakes: Iterable[Mistake]) -> list[Mistake]:
        """Return *mistakes* in file order, each with its line number if that is known."""
        end = len(self._text)
        found = [(self._offset(mistake.place), mistake) for mistake in mistakes]
        found.sort(key=lambda pair: end if pair[0] is None else pair[0])
        return [
            mistake
            if offset is None or mistake.line
            else attrs.evolve(mistake, line=self._text.count("\n", 0, offset) + 1)
            for offset, mistake in found
        ]

    def _offset(self, place: str) -> int | None:
        while place:
            if place in self._found:
                return self._found[place]
            shorter = _LAST_SEGMENT.sub("", place)
            place = "" if shorter == place else shorter
        return None


class _ScanError(Exception):
    """The scanner does not understand the text, although tomllib accepted it: a defect of ours."""


class _Scanner:
    """Scans a valid TOML text once and records the offset of every key and array item."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._pos = 0
        self._found: dict[str, int] = {}
        self._lengths: dict[str, int] = {}  # tables so far of each array of tables, by its place

    def scan(self) -> dict[str, int]:
        """Return the offset of every place; after a `_ScanError`, of the places before it."""
        table = ""
        try:
            while self._skip(_BLANK) < len(self._text):
                start = self._pos
                if self._skip_if("["):
                    table = self._header(start)
                else:
                    self._key_value(table)
        except _ScanError:
            pass
        return self._found

    def _header(self, start: int) -> str:
        array = self._skip_if("[")
        keys = self._keys()
        self._expect("]]" if array else "]")
        place = ""
        for depth, key in enumerate(keys, 1):
            place = child(place, key)
            self._found.setdefault(place, start)
            if array and depth == len(keys):
                self._lengths[place] = self._lengths.get(place, 0) + 1
            if place in self._lengths:
                place = child(place, self._lengths[place] - 1)
        self._found.setdefault(place, start)
        return place

    def _key_value(self, table: str) -> None:
        start = self._pos
        place = table
        for key in self._keys():
            place = child(place, key)
            self._found.setdefault(place, start)
        self._expect("=")
        self._value(place)

    def _value(self, place: str) -> None:
        self._skip(_SPACE)
        if self._skip_if("["):
            index = 0
            while self._next_item("]"):
                self._found[child(place, index)] = self._pos
                self._value(child(place, index))
                index += 1
        elif self._skip_if("{"):
            while self._next_item("}"):
                self._key_value(place)
        elif self._text[self._pos : self._pos + 1] in {'"', "'"}:
            self._match(_STRING)
        else:
            self._match(_SCALAR)

    def _next_item(self, end: str) -> bool:
        """Move to the next item of an array or inline table; return False after its closing bracket."""
        self._skip(_BLANK)
        if self._skip_if(","):
            self._skip(_BLANK)
        return not self._skip_if(end)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip(_SPACE)
            if self._text[self._pos : self._pos + 1] in {'"', "'"}:
                keys.append(str(tomllib.loads(f"key = {self._match(_STRING)}")["key"]))
            else:
                keys.append(self._match(_BARE_KEY))
            self._skip(_SPACE)
            if not self._skip_if("."):
                return keys

    def _skip(self, pattern: re.Pattern[str]) -> int:
        self._match(pattern)
        return self._pos

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._pos)
        if match is None:
            raise _ScanError
        self._pos = match.end()
        return match[0]

    def _skip_if(self, delimiter: str) -> bool:
        if not self._text.startswith(delimiter, self._pos):
            return False
        self._pos += len(delimiter)
        return True

    def _expect(self, delimiter: str) -> None:
        self._skip(_SPACE)
        if not self._skip_if(delimiter):
            raise _ScanError
